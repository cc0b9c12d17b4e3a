/* The cross-domain adaptive filter of MMSR (Dong et al., ECCV 2022, Eq. 1 to 4) on the CPU, and its gradient.
 *
 * At a pixel with target feature t and the n x n neighbours v_k of `values`:
 *
 *     p_k = softmax_k(v_k . t),   out = sum_k p_k v_k
 *
 * and, for a gradient g of out, with d_k = g . v_k and e_k = p_k (d_k - sum_j p_j d_j):
 *
 *     grad t = sum_k e_k v_k,   grad v_k += e_k t + p_k g
 *
 * Neighbours outside the image are zero vectors that stay in the softmax. A vector register holds neighbouring
 * pixels of one channel, so everything is either `compare` (a sum over channels, one logit for each shift) or
 * `gather` (a sum over shifts, for each channel). Logits live for LANES pixels only.
 *
 * The work of one call is a band of rows; bands may run at once. Those of `filter_backward` add to rows that their
 * two neighbours also add to: run all even ones, then all odd ones, and the sums have one order whatever the threads.
 * Images are float32, channels last: (height, width, channels), contiguous.
 *
 * Plain C with GCC's vector types: no Python, no OpenMP. It is compiled once for each kind of processor, see pyproject.toml.
 */
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#if defined(__AVX512F__)
#define ROWS 2 /* of pixels treated at a time, where there are registers enough: 32 */
#else
#define ROWS 1
#endif
#define LARGEST 31 /* neighbourhood */
#define GROUP 64 /* pixels of a row whose neighbourhoods are packed together: 26 rows of them fit the L2 cache */
#define MARGIN 32 /* at least LARGEST */
#define ROW (GROUP + 2 * MARGIN)
#define SPAN 6 /* shifts whose weights stay in registers together: of e and p, for ROWS rows */

typedef struct {
    int height, width, channels;
} Shape;

/* Floats in a row of a packed window: its neighbourhoods, in whole vectors. */
INLINE int window_width(int size) { return (GROUP + size - 1 + LANES - 1) / LANES * LANES; }

/* The larger number; `b` where one of them is none. */
INLINE Vector larger(Vector a, Vector b) { return choose(a > b, a, b); }

/* e^x for x <= 0, to 2 units in the last place; 0 below -87; what is no number stays none. */
INLINE Vector exponential(Vector x) {
    x = larger((Vector){0} - 87.0f, x);
    Vector shifted = x * 1.44269504f + 12582912.0f; /* rounds to the nearest integer in the low bits */
    Vector whole = shifted - 12582912.0f;
    Vector r = x - whole * 0.693145752f - whole * 1.42860677e-6f;
    Vector y = r * 1.98756915e-4f + 1.39819995e-3f;
    y = y * r + 8.33345191e-3f;
    y = y * r + 4.16657959e-2f;
    y = y * r + 1.66666655e-1f;
    y = y * r + 5.00000001e-1f;
    y = y * (r * r) + r + 1.0f;
    Integers exponent = ((Integers)shifted - 0x4b400000 + 127) << 23;
    return y * (Vector)exponent;
}

/* The transpose of LANES x LANES floats whose rows are so far apart. */
INLINE void transpose(Vector columns[LANES], const float *rows, ptrdiff_t apart) {
#if defined(__clang__)
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) columns[j][i] = rows[i * apart + j];
#else
    Integers lower, upper; /* the halves of two vectors that are interleaved */
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        lower[i] = i / 2 + i % 2 * LANES;
        upper[i] = lower[i] + LANES / 2;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) columns[i] = load(rows + i * apart);
#pragma GCC unroll 4
    for (int done = 1; done < LANES; done *= 2) {
        Vector before[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) before[i] = columns[i];
#pragma GCC unroll 16
        for (int i = 0; i < LANES / 2; i++) {
            columns[2 * i] = __builtin_shuffle(before[i], before[i + LANES / 2], lower);
            columns[2 * i + 1] = __builtin_shuffle(before[i], before[i + LANES / 2], upper);
        }
    }
#endif
}

/* (row, pixel, channel) -> planes (row, channel, pixel) of `used` floats each, `wide` apart; zeros outside the image. */
INLINE void pack(float *planes, int wide, int used, const float *image, const Shape *s, int first, int last, int left) {
    int channels = s->channels, begin = left < 0 ? -left : 0, end = s->width - left < used ? s->width - left : used;
    for (int row = first; row < last; row++, planes += (size_t)channels * wide) {
        int inside = row >= 0 && row < s->height;
        const float *pixels = image + ((ptrdiff_t)row * s->width + left) * channels;
        for (int c = 0; c < channels; c++) {
            float *plane = planes + (size_t)c * wide;
            for (int x = 0; x < (inside ? begin : used); x++) plane[x] = 0;
            for (int x = inside ? end : used; x < used; x++) plane[x] = 0;
        }
        for (int x = begin; x < end && inside; x += LANES) {
            int stop = x + LANES < end ? x + LANES : end, c = 0;
            for (; c + LANES <= channels && x + LANES <= end; c += LANES) {
                Vector columns[LANES];
                transpose(columns, pixels + (ptrdiff_t)x * channels + c, channels);
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++) store(planes + (size_t)(c + i) * wide + x, columns[i]);
            }
            for (; c < channels; c++)
                for (int i = x; i < stop; i++) planes[(size_t)c * wide + i] = pixels[(ptrdiff_t)i * channels + c];
        }
    }
}

/* Planes (channel, pixel) of one row back into the image, as far as they lie in it: in the place of what is there, or
 * added to it. */
INLINE void unpack(
    float *image, const float *planes, int wide, int used, const Shape *s, int row, int left, int added) {
    int channels = s->channels, begin = left < 0 ? -left : 0, end = s->width - left < used ? s->width - left : used;
    if (row < 0 || row >= s->height) return;
    float *pixels = image + ((ptrdiff_t)row * s->width + left) * channels;
    for (int x = begin; x < end; x += LANES) {
        int stop = x + LANES < end ? x + LANES : end, c = 0;
        for (; c + LANES <= channels && x + LANES <= end; c += LANES) {
            Vector columns[LANES];
            transpose(columns, planes + (size_t)c * wide + x, wide);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                float *pixel = pixels + (ptrdiff_t)(x + i) * channels + c;
                if (added) columns[i] += load(pixel);
                store(pixel, columns[i]);
            }
        }
        for (; c < channels; c++)
            for (int i = x; i < stop; i++) {
                float *value = pixels + (ptrdiff_t)i * channels + c, plane = planes[(size_t)c * wide + i];
                *value = added ? *value + plane : plane;
            }
    }
}

/* Each row that is near `rows` rows of queries; it is in the neighbourhoods of those from `first` to `last`, constants to the
 * compiler. What is loaded of it, mostly across two cache lines, serves all of them. */
#define EACH_NEAR_ROW(call) \
    for (int near = 0; near < size + rows - 1; near++, window += (size_t)channels * wide) { \
        if (near == size) call(1, 2); \
        else if (near == 0 || rows == 1) call(0, 1); \
        else call(0, 2); \
    }

INLINE void compare_row(
    float *logits, const float *query, int query_wide, const float *window, int channels, int size, int wide, int near,
    int first, int last) {
    Vector sums[2][LARGEST], q[2];
    for (int y = first; y < last; y++)
        for (int dx = 0; dx < size; dx++) sums[y][dx] = (Vector){0};
    for (int c = 0; c < channels; c++) {
        for (int y = first; y < last; y++) q[y] = load(query + (y * channels + c) * query_wide);
#pragma GCC unroll 11
        for (int dx = 0; dx < size; dx++) {
            Vector neighbour = load(window + (size_t)c * wide + dx);
            for (int y = first; y < last; y++) sums[y][dx] += q[y] * neighbour;
        }
    }
    for (int y = first; y < last; y++)
        for (int dx = 0; dx < size; dx++) store(logits + ((y * size + near - y) * size + dx) * LANES, sums[y][dx]);
}

/* logits[k] = sum over channels of query * neighbour k, for LANES pixels of each row. */
INLINE void compare(
    float *logits, const float *query, int query_wide, const float *window, int channels, int size, int wide, int rows) {
#define CALL(first, last) compare_row(logits, query, query_wide, window, channels, size, wide, near, first, last)
    EACH_NEAR_ROW(CALL)
#undef CALL
}

INLINE void gather_row(
    float *out, int out_wide, const float *weights, const float *window, int channels, int size, int wide, int near,
    int first, int last) {
    Vector w[2][LARGEST], sums[2];
    for (int y = first; y < last; y++)
        for (int dx = 0; dx < size; dx++) w[y][dx] = load(weights + ((y * size + near - y) * size + dx) * LANES);
    for (int c = 0; c < channels; c++) {
        for (int y = first; y < last; y++)
            sums[y] = near > y ? load(out + (y * channels + c) * out_wide) : (Vector){0};
#pragma GCC unroll 11
        for (int dx = 0; dx < size; dx++) {
            Vector neighbour = load(window + (size_t)c * wide + dx);
            for (int y = first; y < last; y++) sums[y] += w[y][dx] * neighbour;
        }
        for (int y = first; y < last; y++) store(out + (y * channels + c) * out_wide, sums[y]);
    }
}

/* out[c] = sum over k of weights[k] * neighbour k, for LANES pixels of each row. */
INLINE void gather(
    float *out, int out_wide, const float *weights, const float *window, int channels, int size, int wide, int rows) {
#define CALL(first, last) gather_row(out, out_wide, weights, window, channels, size, wide, near, first, last)
    EACH_NEAR_ROW(CALL)
#undef CALL
}

INLINE void scatter_part(
    float *window, const float *e, const float *p, const float *query, const float *grad, int channels, int size, int wide,
    int rows, int span) {
    Vector we[ROWS][SPAN], wp[ROWS][SPAN];
    for (int y = 0; y < rows; y++)
        for (int i = 0; i < span; i++) {
            we[y][i] = load(e + (y * size + i) * ROW - i);
            wp[y][i] = load(p + (y * size + i) * ROW - i);
        }
    for (int c = 0; c < channels; c++) {
        Vector sums[ROWS];
        for (int y = 0; y < rows; y++) sums[y] = load(window + (y * channels + c) * wide);
#pragma GCC unroll 6
        for (int i = 0; i < span; i++) {
            Vector q = load(query + c * ROW - i), g = load(grad + c * ROW - i);
            for (int y = 0; y < rows; y++) sums[y] += we[y][i] * q + wp[y][i] * g;
        }
        for (int y = 0; y < rows; y++) store(window + (y * channels + c) * wide, sums[y]);
    }
}

/* The transpose of `gather` for one row of queries: window[dy][c][z] += sum over dx of the pixel z - dx's
 * e[dy][dx] * query[c] + p[dy][dx] * grad[c]. All four have MARGIN zeros on either side of a row's GROUP pixels. */
INLINE void scatter(
    float *window, const float *e, const float *p, const float *query, const float *grad, int channels, int size, int wide) {
    for (int dy = 0; dy < size; dy += ROWS)
        for (int z = 0; z < wide; z += LANES)
            for (int dx = 0; dx < size; dx += SPAN) {
                int map = (dy * size + dx) * ROW + MARGIN + z - dx, place = MARGIN + z - dx;
                int rows = size - dy < ROWS ? size - dy : ROWS, span = size - dx < SPAN ? size - dx : SPAN;
                float *into = window + (size_t)dy * channels * wide + z;
#define CALL(rows, span) scatter_part(into, e + map, p + map, query + place, grad + place, channels, size, wide, rows, span)
                if (rows == ROWS && span == SPAN) CALL(ROWS, SPAN);
                else if (rows == ROWS) CALL(ROWS, span);
                else CALL(rows, span);
#undef CALL
            }
}

/* The logits of LANES pixels become their softmax. */
INLINE void softmax(float *logits, int count) {
    Vector peak = load(logits), total = {0};
    for (int k = 1; k < count; k++) peak = larger(peak, load(logits + k * LANES));
    for (int k = 0; k < count; k++) {
        Vector p = exponential(load(logits + k * LANES) - peak);
        total += p;
        store(logits + k * LANES, p);
    }
    total = 1.0f / total;
    for (int k = 0; k < count; k++) store(logits + k * LANES, load(logits + k * LANES) * total);
}

/* What the functions below need of memory for ROWS rows of queries. */
typedef struct {
    float *window, *into, *query, *gradient, *answer, *weights, *slopes, *e, *p;
} Space;

/* `rows` rows of queries, from `row` on, whose neighbourhoods are in `window`. */
INLINE void filter_rows(
    const float *target, float *out, const Shape *s, int size, int row, int rows, int left, const float *window,
    const Space *space) {
    int wide = window_width(size), channels = s->channels, count = size * size;
    pack(space->query, GROUP, GROUP, target, s, row, row + rows, left);
    for (int x = 0; x < GROUP && left + x < s->width; x += LANES) {
        compare(space->weights, space->query + x, GROUP, window + x, channels, size, wide, rows);
        for (int y = 0; y < rows; y++) softmax(space->weights + y * count * LANES, count);
        gather(space->answer + x, GROUP, space->weights, window + x, channels, size, wide, rows);
    }
    for (int y = 0; y < rows; y++) unpack(out, space->answer + y * channels * GROUP, GROUP, GROUP, s, row + y, left, 0);
}

INLINE int filter_band(const float *values, const float *target, float *out, const Shape *s, int size, int first, int last) {
    int pad = size / 2, wide = window_width(size), channels = s->channels;
    size_t plane = (size_t)channels * wide;
    Space space = {
        .window = malloc(sizeof(float) * plane * (last - first + size - 1)),
        .query = malloc(sizeof(float) * ROWS * channels * GROUP),
        .answer = malloc(sizeof(float) * ROWS * channels * GROUP),
        .weights = malloc(sizeof(float) * ROWS * size * size * LANES),
    };
    int failed = !space.window || !space.query || !space.answer || !space.weights;
    for (int left = 0; left < s->width && !failed; left += GROUP) {
        pack(space.window, wide, wide, values, s, first - pad, last + pad, left - pad);
        for (int row = first; row < last; row += ROWS) {
            const float *window = space.window + plane * (row - first);
            if (row + ROWS <= last) filter_rows(target, out, s, size, row, ROWS, left, window, &space);
            else filter_rows(target, out, s, size, row, 1, left, window, &space);
        }
    }
    free(space.window), free(space.query), free(space.answer), free(space.weights);
    return failed;
}

/* What `rows` rows of queries, from `row` on, give the gradients: to `grad_target` and, of the neighbours, to `into`. */
INLINE void backward_rows(
    const float *target, const float *grad, float *grad_target, const Shape *s, int size, int row, int rows, int left,
    const float *window, float *into, const Space *space) {
    int wide = window_width(size), channels = s->channels, count = size * size;
    pack(space->query + MARGIN, ROW, GROUP, target, s, row, row + rows, left);
    pack(space->gradient + MARGIN, ROW, GROUP, grad, s, row, row + rows, left);
    for (int x = 0; x < GROUP; x += LANES) {
        compare(space->weights, space->query + MARGIN + x, ROW, window + x, channels, size, wide, rows);
        compare(space->slopes, space->gradient + MARGIN + x, ROW, window + x, channels, size, wide, rows);
        for (int y = 0; y < rows; y++) {
            float *weights = space->weights + y * count * LANES, *slopes = space->slopes + y * count * LANES;
            float *e = space->e + y * count * ROW + MARGIN + x, *p = space->p + y * count * ROW + MARGIN + x;
            softmax(weights, count);
            Vector mean = {0};
            for (int k = 0; k < count; k++) mean += load(weights + k * LANES) * load(slopes + k * LANES);
            for (int k = 0; k < count; k++) {
                Vector share = load(weights + k * LANES), slope = share * (load(slopes + k * LANES) - mean);
                store(slopes + k * LANES, slope);
                store(e + k * ROW, slope);
                store(p + k * ROW, share);
            }
        }
        gather(space->answer + x, GROUP, space->slopes, window + x, channels, size, wide, rows);
    }
    for (int y = 0; y < rows; y++) {
        scatter(
            into + (size_t)y * channels * wide, space->e + y * count * ROW, space->p + y * count * ROW,
            space->query + y * channels * ROW, space->gradient + y * channels * ROW, channels, size, wide);
        unpack(grad_target, space->answer + y * channels * GROUP, GROUP, GROUP, s, row + y, left, 0);
    }
}

INLINE int backward_band(
    const float *values, const float *target, const float *grad, float *grad_values, float *grad_target, const Shape *s,
    int size, int first, int last) {
    int pad = size / 2, wide = window_width(size), channels = s->channels, count = size * size;
    size_t plane = (size_t)channels * wide, reach = last - first + size - 1, image = (size_t)ROWS * channels * ROW;
    Space space = {
        .window = malloc(sizeof(float) * plane * reach),
        .into = malloc(sizeof(float) * plane * reach),
        .query = calloc(image, sizeof(float)),
        .gradient = calloc(image, sizeof(float)),
        .answer = malloc(sizeof(float) * ROWS * channels * GROUP),
        .weights = malloc(sizeof(float) * ROWS * count * LANES),
        .slopes = malloc(sizeof(float) * ROWS * count * LANES),
        .e = calloc((size_t)ROWS * count * ROW, sizeof(float)),
        .p = calloc((size_t)ROWS * count * ROW, sizeof(float)),
    };
    int failed = !space.window || !space.into || !space.query || !space.gradient || !space.answer || !space.weights ||
                 !space.slopes || !space.e || !space.p;
    for (int left = 0; left < s->width && !failed; left += GROUP) {
        pack(space.window, wide, wide, values, s, first - pad, last + pad, left - pad);
        memset(space.into, 0, sizeof(float) * plane * reach);
        for (int row = first; row < last; row += ROWS) {
            const float *window = space.window + plane * (row - first);
            float *into = space.into + plane * (row - first);
            if (row + ROWS <= last)
                backward_rows(target, grad, grad_target, s, size, row, ROWS, left, window, into, &space);
            else
                backward_rows(target, grad, grad_target, s, size, row, 1, left, window, into, &space);
        }
        for (int row = first - pad; row < last + pad; row++)
            unpack(grad_values, space.into + plane * (row - first + pad), wide, wide, s, row, left - pad, 1);
    }
    free(space.window), free(space.into), free(space.query), free(space.gradient), free(space.answer);
    free(space.weights), free(space.slopes), free(space.e), free(space.p);
    return failed;
}

/* A function for each size that is known to the compiler, whose shifts stay in registers then; apart from each other,
 * since it allocates registers badly in a function that holds them all. */
#define FUNCTIONS(name, size) \
    static __attribute__((noinline)) int filter_##name( \
        const float *values, const float *target, float *out, const Shape *s, int n, int first, int last) { \
        return filter_band(values, target, out, s, size, first, last); \
    } \
    static __attribute__((noinline)) int backward_##name( \
        const float *values, const float *target, const float *grad, float *grad_values, float *grad_target, \
        const Shape *s, int n, int first, int last) { \
        return backward_band(values, target, grad, grad_values, grad_target, s, size, first, last); \
    }
FUNCTIONS(3, 3)
FUNCTIONS(5, 5)
FUNCTIONS(7, 7)
FUNCTIONS(9, 9)
FUNCTIONS(11, 11)
FUNCTIONS(any, n)

#define OF_SIZE(kind) \
    (size == 3 ? kind##_3 : size == 5 ? kind##_5 : size == 7 ? kind##_7 : size == 9 ? kind##_9 : size == 11 ? kind##_11 : kind##_any)

/* Rows [first, last) of the filtered image; 0, or 1 where there is no memory. */
int geosr_filter(
    const float *values, const float *target, float *out, int height, int width, int channels, int size, int first,
    int last) {
    Shape shape = {height, width, channels};
    return OF_SIZE(filter)(values, target, out, &shape, size, first, last);
}

/* Adds to grad_values what the queries in rows [first, last) give it (rows first - size/2 to last + size/2), and puts
 * those rows of grad_target in place; 0, or 1 where there is no memory. */
int geosr_filter_backward(
    const float *values, const float *target, const float *grad, float *grad_values, float *grad_target, int height,
    int width, int channels, int size, int first, int last) {
    Shape shape = {height, width, channels};
    return OF_SIZE(backward)(values, target, grad, grad_values, grad_target, &shape, size, first, last);
}
