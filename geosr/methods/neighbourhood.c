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
 * `gather` (a sum over shifts, for each channel). Logits live for 16 pixels only.
 *
 * The work of one call is a band of rows; bands may run at once. Those of `filter_backward` add to rows that their
 * two neighbours also add to: run all even ones, then all odd ones, and the sums have one order whatever the threads.
 * Images are float32, channels last: (height, width, channels), contiguous.
 *
 * Plain C with GCC's vector types: no Python, no OpenMP, one binary for AVX-512, AVX2 and the rest.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST 31 /* neighbourhood */
#define LANES 16
#define GROUP 64 /* pixels of a row whose neighbourhoods are packed together: 26 rows of them fit the L2 cache */
#define MARGIN 32 /* at least LARGEST */
#define ROW (GROUP + 2 * MARGIN)

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__gnu_linux__)
#define EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_CPU
#endif

typedef struct {
    int height, width, channels;
} Shape;

/* Floats in a row of a packed window: its neighbourhoods, in whole vectors. */
INLINE int window_width(int size) { return (GROUP + size - 1 + LANES - 1) / LANES * LANES; }

INLINE Vector load(const float *from) { return *(const Vector *)from; }
INLINE void store(float *to, Vector x) { *(Vector *)to = x; }
INLINE Vector larger(Vector a, Vector b) {
    Integers mask = a > b;
    return (Vector)(((Integers)a & mask) | ((Integers)b & ~mask));
}

/* e^x for x <= 0, to 2 units in the last place; 0 below -87. */
INLINE Vector exponential(Vector x) {
    x = larger(x, (Vector){0} - 87.0f);
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
            int stop = x + LANES < end ? x + LANES : end;
            for (int c = 0; c < channels; c++)
                for (int i = x; i < stop; i++) planes[(size_t)c * wide + i] = pixels[(ptrdiff_t)i * channels + c];
        }
    }
}

/* Planes (channel, pixel) of one row back into the image, as far as they lie in it. */
#define UNPACK(name, operator) \
    INLINE void name(float *image, const float *planes, int wide, int used, const Shape *s, int row, int left) { \
        int channels = s->channels, begin = left < 0 ? -left : 0, end = s->width - left < used ? s->width - left : used; \
        if (row < 0 || row >= s->height) return; \
        float *pixels = image + ((ptrdiff_t)row * s->width + left) * channels; \
        for (int x = begin; x < end; x++) \
            for (int c = 0; c < channels; c++) \
                pixels[(ptrdiff_t)x * channels + c] operator planes[(size_t)c * wide + x]; \
    }
UNPACK(put, =)
UNPACK(add, +=)

/* logits[k] = sum over channels of query * neighbour k, for LANES pixels. */
INLINE void compare(float *logits, const float *query, int query_wide, const float *window, int channels, int size, int wide) {
    for (int dy = 0; dy < size; dy++, window += (size_t)channels * wide) {
        Vector sums[LARGEST];
        for (int dx = 0; dx < size; dx++) sums[dx] = (Vector){0};
        for (int c = 0; c < channels; c++) {
            Vector q = load(query + c * query_wide);
#pragma GCC unroll 11
            for (int dx = 0; dx < size; dx++) sums[dx] += q * load(window + (size_t)c * wide + dx);
        }
        for (int dx = 0; dx < size; dx++) store(logits + (dy * size + dx) * LANES, sums[dx]);
    }
}

/* out[c] = sum over k of weights[k] * neighbour k, for LANES pixels. */
INLINE void gather(float *out, int out_wide, const float *weights, const float *window, int channels, int size, int wide) {
    for (int dy = 0; dy < size; dy++, window += (size_t)channels * wide) {
        Vector w[LARGEST];
        for (int dx = 0; dx < size; dx++) w[dx] = load(weights + (dy * size + dx) * LANES);
        for (int c = 0; c < channels; c++) {
            Vector sum = dy ? load(out + c * out_wide) : (Vector){0};
#pragma GCC unroll 11
            for (int dx = 0; dx < size; dx++) sum += w[dx] * load(window + (size_t)c * wide + dx);
            store(out + c * out_wide, sum);
        }
    }
}

/* The transpose of `gather` for one row of queries: window[dy][c][z] += sum over dx of the pixel z - dx's
 * e[dy][dx] * query[c] + p[dy][dx] * grad[c]. All four have MARGIN zeros on either side of a row's GROUP pixels. */
INLINE void scatter(
    float *window, const float *e, const float *p, const float *query, const float *grad, int channels, int size, int wide) {
    for (int dy = 0; dy < size; dy++, window += (size_t)channels * wide)
        for (int z = 0; z < wide; z += LANES) {
            Vector we[LARGEST], wp[LARGEST];
            for (int dx = 0; dx < size; dx++) {
                we[dx] = load(e + (dy * size + dx) * ROW + MARGIN + z - dx);
                wp[dx] = load(p + (dy * size + dx) * ROW + MARGIN + z - dx);
            }
            for (int c = 0; c < channels; c++) {
                const float *q = query + c * ROW + MARGIN + z, *g = grad + c * ROW + MARGIN + z;
                Vector sum = load(window + (size_t)c * wide + z);
#pragma GCC unroll 11
                for (int dx = 0; dx < size; dx++) sum += we[dx] * load(q - dx) + wp[dx] * load(g - dx);
                store(window + (size_t)c * wide + z, sum);
            }
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

INLINE int filter_band(const float *values, const float *target, float *out, const Shape *s, int size, int first, int last) {
    int pad = size / 2, wide = window_width(size), channels = s->channels;
    size_t plane = (size_t)channels * wide;
    float *window = malloc(sizeof(float) * plane * (last - first + size - 1));
    float *query = malloc(sizeof(float) * channels * GROUP), *answer = malloc(sizeof(float) * channels * GROUP);
    float *logits = malloc(sizeof(float) * size * size * LANES);
    int failed = !window || !query || !answer || !logits;
    for (int left = 0; left < s->width && !failed; left += GROUP) {
        pack(window, wide, wide, values, s, first - pad, last + pad, left - pad);
        for (int row = first; row < last; row++) {
            pack(query, GROUP, GROUP, target, s, row, row + 1, left);
            for (int x = 0; x < GROUP && left + x < s->width; x += LANES) {
                const float *around = window + plane * (row - first) + x;
                compare(logits, query + x, GROUP, around, channels, size, wide);
                softmax(logits, size * size);
                gather(answer + x, GROUP, logits, around, channels, size, wide);
            }
            put(out, answer, GROUP, GROUP, s, row, left);
        }
    }
    free(window), free(query), free(answer), free(logits);
    return failed;
}

INLINE int backward_band(
    const float *values, const float *target, const float *grad, float *grad_values, float *grad_target, const Shape *s,
    int size, int first, int last) {
    int pad = size / 2, wide = window_width(size), channels = s->channels, count = size * size;
    size_t plane = (size_t)channels * wide, rows = last - first + size - 1;
    float *window = malloc(sizeof(float) * plane * rows), *into = malloc(sizeof(float) * plane * rows);
    float *query = calloc((size_t)channels * ROW, sizeof(float)), *gradient = calloc((size_t)channels * ROW, sizeof(float));
    float *e = calloc((size_t)count * ROW, sizeof(float)), *p = calloc((size_t)count * ROW, sizeof(float));
    float *answer = malloc(sizeof(float) * channels * GROUP);
    float *weights = malloc(sizeof(float) * count * LANES), *slopes = malloc(sizeof(float) * count * LANES);
    int failed = !window || !into || !query || !gradient || !e || !p || !answer || !weights || !slopes;
    for (int left = 0; left < s->width && !failed; left += GROUP) {
        pack(window, wide, wide, values, s, first - pad, last + pad, left - pad);
        memset(into, 0, sizeof(float) * plane * rows);
        for (int row = first; row < last; row++) {
            pack(query + MARGIN, ROW, GROUP, target, s, row, row + 1, left);
            pack(gradient + MARGIN, ROW, GROUP, grad, s, row, row + 1, left);
            for (int x = 0; x < GROUP; x += LANES) {
                const float *around = window + plane * (row - first) + x;
                compare(weights, query + MARGIN + x, ROW, around, channels, size, wide);
                softmax(weights, count);
                compare(slopes, gradient + MARGIN + x, ROW, around, channels, size, wide);
                Vector mean = {0};
                for (int k = 0; k < count; k++) mean += load(weights + k * LANES) * load(slopes + k * LANES);
                for (int k = 0; k < count; k++) {
                    Vector share = load(weights + k * LANES), slope = share * (load(slopes + k * LANES) - mean);
                    store(slopes + k * LANES, slope);
                    store(e + k * ROW + MARGIN + x, slope);
                    store(p + k * ROW + MARGIN + x, share);
                }
                gather(answer + x, GROUP, slopes, around, channels, size, wide);
            }
            scatter(into + plane * (row - first), e, p, query, gradient, channels, size, wide);
            put(grad_target, answer, GROUP, GROUP, s, row, left);
        }
        for (int row = first - pad; row < last + pad; row++)
            add(grad_values, into + plane * (row - first + pad), wide, wide, s, row, left - pad);
    }
    free(window), free(into), free(query), free(gradient), free(e), free(p), free(answer), free(weights), free(slopes);
    return failed;
}

/* With a size known to the compiler the shifts stay in registers. */
#define FOR_EACH_SIZE(call) \
    switch (size) { \
        case 3: return call(3); \
        case 5: return call(5); \
        case 7: return call(7); \
        case 9: return call(9); \
        case 11: return call(11); \
        default: return call(size); \
    }

/* Rows [first, last) of the filtered image; 0, or 1 where there is no memory. */
EVERY_CPU int geosr_filter(
    const float *values, const float *target, float *out, int height, int width, int channels, int size, int first,
    int last) {
    Shape shape = {height, width, channels};
#define CALL(n) filter_band(values, target, out, &shape, n, first, last)
    FOR_EACH_SIZE(CALL)
#undef CALL
}

/* Adds to grad_values what the queries in rows [first, last) give it (rows first - size/2 to last + size/2), and puts
 * those rows of grad_target in place; 0, or 1 where there is no memory. */
EVERY_CPU int geosr_filter_backward(
    const float *values, const float *target, const float *grad, float *grad_values, float *grad_target, int height,
    int width, int channels, int size, int first, int last) {
    Shape shape = {height, width, channels};
#define CALL(n) backward_band(values, target, grad, grad_values, grad_target, &shape, n, first, last)
    FOR_EACH_SIZE(CALL)
#undef CALL
}
