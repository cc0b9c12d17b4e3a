/* What flows along the diffusion's links on the CPU; see diffusion_solver.py.
 *
 * A link joins each pixel (near) with the one `rows` rows down and `cols` columns to the right of it (far), if that lies
 * in the image; its conductivities are (height - rows, width - |cols|). Numbers are float32, row after row.
 */
#include <stddef.h>
#include <string.h>

/* Adds to each pixel of `flow`, which is not read before, conductivity * (its value - the other's) of all its links. A
 * row of pixels gets all that it gets before the next one, in the order of the links. */
void geosr_flow(
    const float *restrict values, float *restrict flow, int height, int width, const float *const *conductivities,
    const int *rows, const int *cols, int links) {
    memset(flow, 0, sizeof(float) * (size_t)height * (size_t)width);
    for (int y = 0; y < height; y++)
        for (int l = 0; l < links; l++) {
            int first = cols[l] < 0 ? -cols[l] : 0, last = width - (cols[l] > 0 ? cols[l] : 0), wide = last - first;
            ptrdiff_t away = (ptrdiff_t)rows[l] * width + cols[l];
            if (y + rows[l] < height) {
                const float *near = values + (ptrdiff_t)y * width + first, *far = near + away;
                const float *conductivity = conductivities[l] + (ptrdiff_t)y * wide;
                float *restrict into = flow + (ptrdiff_t)y * width + first;
                for (int x = 0; x < wide; x++) into[x] -= conductivity[x] * (far[x] - near[x]);
            }
            if (y >= rows[l]) {
                const float *far = values + (ptrdiff_t)y * width + first + cols[l], *near = far - away;
                const float *conductivity = conductivities[l] + (ptrdiff_t)(y - rows[l]) * wide;
                float *restrict into = flow + (ptrdiff_t)y * width + first + cols[l];
                for (int x = 0; x < wide; x++) into[x] += conductivity[x] * (far[x] - near[x]);
            }
        }
}
