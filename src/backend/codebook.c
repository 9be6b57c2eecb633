#include "backend/codebook.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

/* The midpoints, as the compiler reads the library's literals: four of them are a tie between
 * two fp32 numbers, which a detour through double would round the other way (1 ulp; no pair of
 * fp16 or bf16 weight and absmax comes out there). */
const float codebook_nf4_threshold[15] = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f,
};

const float codebook_fp4_threshold[7] = {
    0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f, 0.4166667f, 0.583333f, 0.8333333f,
};

const uint8_t codebook_fp4_code[8] = { 0, 1, 6, 7, 4, 5, 2, 3 };

struct codebook codebook_of_table(enum code_table id)
{
    struct codebook out = { .bits = id == TABLE_NF2 ? 2 : id == TABLE_NF3 ? 3 : 4 };
    float value[16], table[16];

    weight_code_table(id, table);
    for (int code = 0; code < 1 << out.bits; code++) {
        int at = out.n;

        while (at > 0 && value[at - 1] > table[code])
            at--;
        if (at > 0 && value[at - 1] == table[code])
            continue;
        for (int i = out.n++; i > at; i--) {
            value[i] = value[i - 1];
            out.code[i] = out.code[i - 1];
        }
        value[at] = table[code];
        out.code[at] = (uint8_t)code;
    }
    for (int i = 0; i + 1 < out.n; i++)
        out.threshold[i] = (float)(((double)value[i] + (double)value[i + 1]) / 2);
    return out;
}

/* torch.linspace(0.1, 1, n)[i]: counted from the nearer end, multiply and add fused. */
static float boundary(int i, int n)
{
    const float first = 0.1f;
    float step = (1.0f - first) / (float)(n - 1);

    return i < n / 2 ? fmaf(step, (float)i, first) : fmaf(-step, (float)(n - 1 - i), 1.0f);
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Seven decades; in decade i the midpoints of n - 1 equal parts of [0.1, 1]. */
static void dynamic(float map[256], bool with_signs)
{
    static const float decade[7] = { 1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f };
    int n_values = 0;

    for (int i = 0; i < 7; i++) {
        int n = (1 << (with_signs ? i : i + 1)) + 1;

        for (int j = 0; j + 1 < n; j++) {
            float value = decade[i] * ((boundary(j, n) + boundary(j + 1, n)) / 2.0f);

            map[n_values++] = value;
            if (with_signs)
                map[n_values++] = -value;
        }
    }
    map[n_values++] = 0.0f;
    map[n_values++] = 1.0f;
    qsort(map, 256, sizeof *map, compare);
}

void codebook_dynamic(float map[256])
{
    dynamic(map, true);
}

void codebook_dynamic_unsigned(float map[256])
{
    dynamic(map, false);
}

int codebook_nearest(const float map[256], float x)
{
    int low = 0, high = 255;

    if (!(x > map[0]))
        return 0;
    if (x >= map[255])
        return 255;
    /* map[low] <= x < map[high] */
    while (high - low > 1) {
        int middle = (low + high) / 2;

        if (x >= map[middle])
            low = middle;
        else
            high = middle;
    }
    float between = (map[low] + map[high]) * 0.5f;

    if (x == between)
        return low % 2 == 0 ? low : high;
    return x > between ? high : low;
}
