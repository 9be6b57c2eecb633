/* Which settings are refused, and how that is said; names to skip; the model dtype. */
#include "check.h"

#include "quant/method.h"

#include <string.h>

#define LM_HEAD .n_skip = 1, .skip = { "lm_head" }

static void settings_refused(void **state)
{
    const struct quant_spec rtn = { .method = "rtn",
                                    .bits = 4,
                                    .group_size = 128,
                                    .quant_type = "int",
                                    .sym = true,
                                    .grid = "absmax",
                                    .compute = DTYPE_F16,
                                    LM_HEAD };
    const struct quant_spec gptq = { .method = "gptq",
                                     .bits = 4,
                                     .group_size = 128,
                                     .quant_type = "int",
                                     .compute = DTYPE_F16,
                                     LM_HEAD };
    const struct quant_spec awq = { .method = "awq",
                                    .bits = 4,
                                    .group_size = 128,
                                    .quant_type = "int",
                                    .compute = DTYPE_F16,
                                    LM_HEAD };
    const struct quant_spec nvfp4 = { .method = "rtn",
                                      .bits = 4,
                                      .group_size = 16,
                                      .quant_type = "nvfp4",
                                      .compute = DTYPE_F16,
                                      LM_HEAD };
    const struct quant_spec hqq = { .method = "hqq",
                                    .bits = 4,
                                    .group_size = 64,
                                    .quant_type = "int",
                                    .compute = DTYPE_F16,
                                    LM_HEAD };
    const struct quant_spec nf4 = { .method = "bnb_4bit",
                                    .bits = 4,
                                    .group_size = 64,
                                    .quant_type = "nf4",
                                    .double_quant = true,
                                    .compute = DTYPE_F16,
                                    LM_HEAD };
    const struct quant_spec int8 = {
        .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 6, LM_HEAD
    };
    const struct quant_spec none = { .method = "none", .bits = 16, .compute = DTYPE_F16, LM_HEAD };
    struct err e = ERR_INIT;

    (void)state;
#define REFUSED(base, n_in, sentence, ...)                                                      \
    do {                                                                                        \
        struct quant_spec s = base;                                                             \
        err_clear(&e);                                                                          \
        CHECK(quant_spec_check(&s, 0, &e) == 0, "the settings are allowed before: %s", e.text); \
        __VA_ARGS__;                                                                            \
        err_clear(&e);                                                                          \
        CHECK(quant_spec_check(&s, n_in, &e) == -1, "refused: %s", sentence);                   \
        CHECK(e.code == ERR_USAGE, "%s: a mistake of the user", sentence);                      \
        CHECK(strstr(e.text, sentence), "\"%s\" says \"%s\"", e.text, sentence);                \
    } while (0)

    REFUSED(rtn, 0, "rtn allows 2, 3, 4, 5, 6, 7, 8", s.bits = 9);
    REFUSED(rtn, 0, "bits = 1: rtn allows", s.bits = 1);
    REFUSED(nf4, 0, "bits = 8: bnb_4bit allows 4", s.bits = 8);
    REFUSED(int8, 0, "bits = 4: bnb_8bit allows 8", s.bits = 4);
    REFUSED(none, 0, "none with compute_dtype fp16 has 16", s.bits = 32);
    REFUSED(none, 0, "none with compute_dtype fp32 has 32", s.compute = DTYPE_F32);
    REFUSED(none, 0, "bits = 4: none allows 16, 32", s.bits = 4);
    REFUSED(nf4, 0, "bnb_4bit allows 32, 64, 128, 256, 512, 1024, 2048, 4096", s.group_size = 48);
    REFUSED(nf4, 0, "group_size = -1: bnb_4bit allows 32,", s.group_size = -1);
    REFUSED(nf4, 0, "group_size = 16: bnb_4bit allows 32,", s.group_size = 16);
    REFUSED(nf4, 0, "group_size = 8192: bnb_4bit allows", s.group_size = 8192);
    REFUSED(rtn, 0, "or -1 for one group a row", s.group_size = 0);
    REFUSED(rtn, 0, "group_size = -2", s.group_size = -2);
    REFUSED(rtn, 256, "group_size = 96 does not divide 256 inputs", s.group_size = 96);
    REFUSED(rtn, 256, "group_size = 512 does not divide 256 inputs", s.group_size = 512);
    REFUSED(int8, 0, "bnb_8bit has no groups", s.group_size = 64);
    REFUSED(none, 0, "none has no groups", s.group_size = -1);
    REFUSED(nf4, 0, "quant_type = \"int\": bnb_4bit allows nf4, fp4", strcpy(s.quant_type, "int"));
    REFUSED(rtn, 0, "quant_type = \"nf5\": rtn allows int, nf2, nf3, nf4, fp4, mxfp4, nvfp4, fp8",
            strcpy(s.quant_type, "nf5"));
    REFUSED(rtn, 0, "quant_type = \"\": rtn allows int", strcpy(s.quant_type, ""));
    REFUSED(rtn, 0, "bits = 4: nf3 has 3", strcpy(s.quant_type, "nf3"));
    REFUSED(rtn, 0, "bits = 4: fp8_e4m3 has 8", strcpy(s.quant_type, "fp8_e4m3"));
    REFUSED(rtn, 0, "group_size = 128: mxfp4 has groups of 32", strcpy(s.quant_type, "mxfp4"));
    REFUSED(nvfp4, 0, "group_size = 32: nvfp4 has groups of 16", s.group_size = 32);
    REFUSED(nvfp4, 0, "the scales of nvfp4 have 8 bits already", s.double_quant = true);
    REFUSED(nvfp4, 40, "group_size = 16 does not divide 40 inputs", (void)s);
    REFUSED(rtn, 0, "scale_dtype = \"bf16\": fp32 and fp16", s.scale_dtype = DTYPE_BF16);
    REFUSED(hqq, 0, "hqq allows 2, 3, 4, 5, 6, 7, 8", s.bits = 1);
    REFUSED(hqq, 0, "quant_type = \"nf4\": hqq allows int", strcpy(s.quant_type, "nf4"));
    REFUSED(hqq, 96, "group_size = 64 does not divide 96 inputs", (void)s);
    REFUSED(hqq, 0, "group_size = 0: hqq allows", s.group_size = 0);
    REFUSED(int8, 0, "bnb_8bit has no types", strcpy(s.quant_type, "int"));
    REFUSED(int8, 0, "bnb_8bit has no scales to quantize again", s.double_quant = true);
    REFUSED(none, 0, "none has no scales", s.double_quant = true);
    REFUSED(rtn, 0, "grid = \"round\": rtn allows absmax, gptq, awq", strcpy(s.grid, "round"));
    REFUSED(rtn, 0, "compute_dtype = \"int8\"", s.compute = DTYPE_I8);
    REFUSED(int8, 0, "outlier_threshold = -1", s.outlier_threshold = -1);
    REFUSED(int8, 0, "outlier_threshold = nan", s.outlier_threshold = NAN);
    REFUSED(rtn, 0, "known are none, bnb_8bit, bnb_4bit, rtn, hqq, gptq, awq",
            strcpy(s.method, "rtm"));
    REFUSED(awq, 0, "bits = 2: awq allows 3, 4, 8", s.bits = 2);
    REFUSED(awq, 0, "group_size = 16: awq allows 32 to 1024, or -1", s.group_size = 16);
    REFUSED(awq, 0, "quant_type = \"nf4\": awq allows int", strcpy(s.quant_type, "nf4"));
    REFUSED(gptq, 0, "bits = 5: gptq allows 2, 3, 4, 8", s.bits = 5);
    REFUSED(gptq, 0, "group_size = 8: gptq allows 16 to 1024, or -1", s.group_size = 8);
    REFUSED(gptq, 0, "group_size = 2048: gptq allows 16 to 1024", s.group_size = 2048);
    REFUSED(gptq, 192, "group_size = 128 does not divide 192 inputs", (void)s);
    REFUSED(gptq, 0, "quant_type = \"mxfp4\": gptq allows int, nf2, nf3, nf4, fp4",
            strcpy(s.quant_type, "mxfp4"));
    REFUSED(gptq, 0, "damp_percent = 1: 0 to less than 1", s.gptq.damp = 1);
    REFUSED(gptq, 0, "damp_percent = nan", s.gptq.damp = NAN);
    REFUSED(gptq, 0, "mse = -1", s.gptq.mse = -1);
    REFUSED(gptq, 0, "gar = true goes with neither desc_act nor static_groups", s.gptq.gar = true;
            s.gptq.desc_act = true);
#undef REFUSED
    struct quant_spec every = none;
    every.n_skip = 0;
    CHECK_OK(quant_spec_check(&every, 0, &e), e);
}

static void names_to_skip(void **state)
{
    static const struct {
        const char *skip, *module;
        bool matches;
    } cases[] = {
        { "lm_head", "lm_head", true },
        { "down_proj", "model.layers.0.mlp.down_proj", true },
        { "mlp", "model.layers.0.mlp.down_proj", true },
        { "mlp.down_proj", "model.layers.11.mlp.down_proj", true },
        { "layers.1", "model.layers.1.mlp.down_proj", true },
        { "layers.1", "model.layers.11.mlp.down_proj", false },
        { "1.mlp", "model.layers.11.mlp.down_proj", false },
        { "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.gate_proj", true },
        { "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj", false },
        { "proj", "model.layers.0.mlp.up_proj", false },
        { "down_pro", "model.layers.0.mlp.down_proj", false },
        { "", "model.layers.0.mlp.down_proj", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct quant_spec s = { .n_skip = 2, .skip = { "nothing" } };

        snprintf(s.skip[1], sizeof s.skip[1], "%s", cases[i].skip);
        CHECK(quant_skips(&s, cases[i].module) == cases[i].matches, "\"%s\" %s %s", cases[i].skip,
              cases[i].matches ? "matches" : "does not match", cases[i].module);
    }
}

static void model_dtype(void **state)
{
    struct quant_spec s = { .compute = DTYPE_BF16 };

    (void)state;
    CHECK(quant_model_dtype(&s, DTYPE_F16) == DTYPE_F16, "a 16-bit source is the model dtype");
    CHECK(quant_model_dtype(&s, DTYPE_F32) == DTYPE_BF16, "else it is the compute dtype");
    s.compute = DTYPE_F32;
    CHECK(quant_model_dtype(&s, DTYPE_BF16) == DTYPE_BF16, "whatever the compute dtype");
    CHECK(quant_model_dtype(&s, DTYPE_F32) == DTYPE_F32, "fp32 throughout");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_refused),
        cmocka_unit_test(names_to_skip),
        cmocka_unit_test(model_dtype),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
