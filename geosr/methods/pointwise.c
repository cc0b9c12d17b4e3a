/* Layers of one pixel after each other on the CPU, and their gradients: y_l = W_l y_(l-1) + b_l, where a layer may be
 * RECTIFIED (what is negative becomes zero) or RESIDUAL (y_(l-2) is added).
 *
 * Of features there is a multiple of LANES; before the first and after the last layer there may be one. No two RESIDUAL
 * layers follow each other, none is the first, and what is added has as many features.
 *
 * BLOCK pixels at a time pass through all layers in the cache; the backward pass does that again. Numbers are float32, a
 * pixel's features after each other. The weights and biases of all layers follow each other: W_1 (outputs, inputs), b_1,
 * W_2, ... A call treats pixels that follow each other; calls may run at once. Plain C with GCC's vector types: no Python,
 * no OpenMP.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#define RECTIFIED 1
#define RESIDUAL 2
#define BLOCK 64
#define WIDE 2 /* registers of a row whose sums are in registers at a time */
#if defined(__AVX512F__)
#define HIGH 8 /* rows of such sums, for 32 registers and for 16 */
#else
#define HIGH 4
#endif

/* c = start + sum over k of a[row][k] * b[k], for `high` rows and `wide` registers of columns; elements of `a` are
 * `a_row` and `a_step` apart. `start` is one row for all, or nothing; or the sum goes on with what is in c (`onto`). */
INLINE void product_block(
    float *c, int c_row, const float *a, int a_row, int a_step, const float *b, int b_row, const float *start, int depth,
    int onto, int high, int wide) {
    Vector sums[HIGH][WIDE];
    for (int i = 0; i < high; i++)
        for (int j = 0; j < wide; j++)
            sums[i][j] = onto ? load(c + i * c_row + j * LANES) : start ? load(start + j * LANES) : (Vector){0};
    for (int k = 0; k < depth; k++) {
        Vector row[WIDE];
        for (int j = 0; j < wide; j++) row[j] = load(b + k * b_row + j * LANES);
        for (int i = 0; i < high; i++)
            for (int j = 0; j < wide; j++) sums[i][j] += a[i * a_row + k * a_step] * row[j];
    }
    for (int i = 0; i < high; i++)
        for (int j = 0; j < wide; j++) store(c + i * c_row + j * LANES, sums[i][j]);
}

INLINE void product(
    float *c, int columns, const float *a, int a_row, int a_step, const float *b, const float *start, int rows, int depth,
    int onto) {
    for (int column = 0; column < columns; column += WIDE * LANES)
        for (int row = 0; row < rows; row += HIGH) {
            int high = rows - row < HIGH ? rows - row : HIGH;
#define CALL(high, wide) \
    product_block( \
        c + row * columns + column, columns, a + row * a_row, a_row, a_step, b + column, columns, \
        start ? start + column : start, depth, onto, high, wide)
            int wide = columns - column < WIDE * LANES ? 1 : WIDE;
            if (high == HIGH && wide == WIDE) CALL(HIGH, WIDE);
            else if (high == HIGH) CALL(HIGH, 1);
            else CALL(high, wide);
#undef CALL
        }
}

typedef struct {
    int inputs, outputs, padded, kind; /* `padded` outputs are whole registers */
    const float *weight, *bias;        /* as given */
    float *transposed, *start;         /* the same as (inputs, padded) and (padded) */
    float *values;                     /* (BLOCK, padded): y_l of the pixels in work */
    ptrdiff_t place;                   /* of its weights among all */
} Layer;

/* All layers, after `layers[0]`, which stands for what goes into them. */
typedef struct {
    int count;
    Layer *layers;
    float *memory, *grad, *before, *kept;
} Chain;

static int padded(int width) { return (width + LANES - 1) / LANES * LANES; }

static void close_chain(Chain *chain) { free(chain->layers), free(chain->memory); }

/* 0, or 1 where there is no memory. */
static int open_chain(Chain *chain, const float *parameters, const int *widths, const int *kinds, int count) {
    size_t needed = 0, widest = 0;
    for (int l = 0; l <= count; l++) {
        size_t width = padded(widths[l]);
        widest = width > widest ? width : widest;
        needed += width * BLOCK + (l ? width * widths[l - 1] + width : 0);
    }
    *chain = (Chain){.count = count};
    chain->layers = calloc((unsigned)count + 1u, sizeof(Layer));
    chain->memory = calloc(needed + 3 * widest * BLOCK, sizeof(float));
    if (!chain->layers || !chain->memory) return 1;
    float *free_memory = chain->memory;
    ptrdiff_t place = 0;
    for (int l = 0; l <= count; l++) {
        Layer *layer = chain->layers + l;
        layer->outputs = widths[l], layer->padded = l ? padded(widths[l]) : widths[l];
        layer->values = free_memory, free_memory += padded(widths[l]) * BLOCK;
        if (!l) continue;
        layer->inputs = widths[l - 1], layer->kind = kinds[l - 1], layer->place = place;
        layer->weight = parameters + place, layer->bias = layer->weight + (ptrdiff_t)layer->inputs * layer->outputs;
        layer->transposed = free_memory, free_memory += layer->inputs * layer->padded;
        layer->start = free_memory, free_memory += layer->padded;
        for (int o = 0; o < layer->outputs; o++) {
            layer->start[o] = layer->bias[o];
            for (int i = 0; i < layer->inputs; i++)
                layer->transposed[i * layer->padded + o] = layer->weight[(ptrdiff_t)o * layer->inputs + i];
        }
        place += (ptrdiff_t)(layer->inputs + 1) * layer->outputs;
    }
    chain->grad = free_memory, chain->before = chain->grad + widest * BLOCK, chain->kept = chain->before + widest * BLOCK;
    return 0;
}

/* Some pixels of one or two images become what goes into the first layer, side by side. */
static void read_inputs(const Chain *chain, const float *const *images, const int *features, int first, int count) {
    int width = chain->layers[0].outputs;
    float *into = chain->layers[0].values;
    for (int i = 0; i < 2 && features[i]; into += features[i++])
        for (int x = 0; x < count; x++)
            memcpy(into + x * width, images[i] + (ptrdiff_t)(first + x) * features[i], sizeof(float) * features[i]);
}

static void evaluate(const Chain *chain, int count) {
    for (Layer *layer = chain->layers + 1; layer <= chain->layers + chain->count; layer++) {
        float *values = layer->values;
        product(values, layer->padded, layer[-1].values, layer->inputs, 1, layer->transposed, layer->start, count, layer->inputs, 0);
        for (int i = 0; i < count * layer->padded && layer->kind; i += LANES) {
            Vector value = load(values + i);
            if (layer->kind & RESIDUAL) value += load(layer[-2].values + i);
            if (layer->kind & RECTIFIED) value = choose(value < 0, (Vector){0}, value); /* what is no number stays so */
            store(values + i, value);
        }
    }
}

/* Adds the gradients of weights and biases that some pixels give; `chain->grad` is that of the last layer's outputs, and
 * becomes that of the first one's inputs if these are whole registers. */
static void add_gradients(Chain *chain, float *gradients, int count) {
    for (Layer *layer = chain->layers + chain->count; layer > chain->layers; layer--) {
        int inputs = layer->inputs, outputs = layer->outputs;
        float *grad = chain->grad, *weight = gradients + layer->place, *bias = weight + (ptrdiff_t)inputs * outputs;
        if (layer->kind & RECTIFIED)
            for (int i = 0; i < count * outputs; i += LANES)
                store(grad + i, choose(load(layer->values + i) <= 0, (Vector){0}, load(grad + i)));
        if (outputs % LANES)
            for (int i = 0; i < count * outputs; i++) bias[i % outputs] += grad[i];
        else
            for (int o = 0; o < outputs; o += LANES) {
                Vector sum = load(bias + o);
                for (int i = 0; i < count; i++) sum += load(grad + i * outputs + o);
                store(bias + o, sum);
            }
        const float *before = layer[-1].values;
        if (inputs % LANES) product(weight, outputs, before, 1, inputs, grad, 0, inputs, count, 1);
        else product(weight, inputs, grad, 1, outputs, before, 0, outputs, count, 1);
        if (inputs % LANES) return;
        /* What was added to a RESIDUAL layer gets its gradient as it is, and more from the layer between them. */
        int both = layer < chain->layers + chain->count && layer[1].kind & RESIDUAL;
        float *into = both ? chain->kept : chain->before;
        product(into, inputs, grad, outputs, 1, layer->weight, 0, count, outputs, both);
        if (!both) chain->before = layer->kind & RESIDUAL ? chain->kept : grad;
        if (both || layer->kind & RESIDUAL) chain->kept = grad;
        chain->grad = into;
    }
}

/* Numbers in a register. */
int geosr_lanes(void) { return LANES; }

/* Of `pixels` pixels of one or two images with so many features (else 0); 0, or 1 where there is no memory. */
int geosr_chain(
    const float *image, const float *second, const float *parameters, float *out, const int *features, const int *widths,
    const int *kinds, int layers, int pixels) {
    Chain chain;
    const float *images[2] = {image, second};
    int failed = open_chain(&chain, parameters, widths, kinds, layers), outputs = widths[layers];
    for (int first = 0; first < pixels && !failed; first += BLOCK) {
        int count = pixels - first < BLOCK ? pixels - first : BLOCK;
        read_inputs(&chain, images, features, first, count);
        evaluate(&chain, count);
        const Layer *last = chain.layers + layers;
        for (int x = 0; x < count; x++)
            memcpy(out + (ptrdiff_t)(first + x) * outputs, last->values + x * last->padded, sizeof(float) * outputs);
    }
    close_chain(&chain);
    return failed;
}

/* Puts the gradients of the images in place, if their features are whole registers, and those of all parameters that
 * these pixels give; `grad` is that of the last layer's outputs. 0, or 1 where there is no memory. */
int geosr_chain_backward(
    const float *image, const float *second, const float *parameters, const float *grad, float *grad_image,
    float *grad_second, float *gradients, const int *features, const int *widths, const int *kinds, int layers, int pixels) {
    Chain chain;
    const float *images[2] = {image, second};
    float *grad_images[2] = {grad_image, grad_second};
    int failed = open_chain(&chain, parameters, widths, kinds, layers), inputs = widths[0], outputs = widths[layers];
    for (int first = 0; first < pixels && !failed; first += BLOCK) {
        int count = pixels - first < BLOCK ? pixels - first : BLOCK;
        read_inputs(&chain, images, features, first, count);
        evaluate(&chain, count);
        memcpy(chain.grad, grad + (ptrdiff_t)first * outputs, sizeof(float) * count * outputs);
        add_gradients(&chain, gradients, count);
        const float *from = chain.grad;
        for (int i = 0; i < 2 && features[i] && inputs % LANES == 0; from += features[i++])
            for (int x = 0; x < count; x++)
                memcpy(grad_images[i] + (ptrdiff_t)(first + x) * features[i], from + x * inputs, sizeof(float) * features[i]);
    }
    close_chain(&chain);
    return failed;
}
