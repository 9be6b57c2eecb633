/* test_config.c - config.json of the three families, in both forms; what is refused, by name. */
#include "check.h"

#include "base/file.h"
#include "model/config.h"

#include <string.h>
#include <unistd.h>

static int parse(const char *text, const char *generation, struct config *c, struct err *e)
{
    struct js *j = js_parse(text, strlen(text), e);
    struct js *g = generation ? js_parse(generation, strlen(generation), e) : NULL;

    CHECK(j && (g || !generation), "the test's JSON is valid: %s", e->text);
    int rc = config_parse(j, g, c, e);
    js_release(j);
    js_release(g);
    return rc;
}

static struct config parsed(const char *text)
{
    struct config c;
    struct err e = ERR_INIT;
    int rc = parse(text, NULL, &c, &e);

    CHECK(rc == 0, "%s is accepted, but: %s", text, e.text);
    return c;
}

static void refused(const char *text, const char *word)
{
    struct config c;
    struct err e = ERR_INIT;
    int rc = parse(text, NULL, &c, &e);

    CHECK(rc == -1 && e.code == ERR_INPUT, "%s is refused", text);
    CHECK(strstr(e.text, word), "%s: \"%s\" says \"%s\"", text, e.text, word);
}

#define LLAMA   "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\""
#define MISTRAL "{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\""
#define QWEN2   "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\""

#define SHAPE(v, h, f, l, heads, kv)                                          \
    ",\"vocab_size\":" #v ",\"hidden_size\":" #h ",\"intermediate_size\":" #f \
    ",\"num_hidden_layers\":" #l ",\"num_attention_heads\":" #heads           \
    ",\"num_key_value_heads\":" #kv

#define TIED ",\"tie_word_embeddings\":true"

static void test_counts_of_published_models(void **state)
{
    static const struct {
        const char *name, *text;
        int64_t parameters, linear, kv_bytes;
    } rows[] = {
        { "Llama-3.2-1B", LLAMA SHAPE(128256, 2048, 8192, 16, 32, 8) ",\"head_dim\":64" TIED "}",
          1235814400, 973078528, 32768 },
        { "Llama-3.2-3B", LLAMA SHAPE(128256, 3072, 8192, 28, 24, 8) ",\"head_dim\":128" TIED "}",
          3212749824, 2818572288, 114688 },
        { "Llama-3.1-8B", LLAMA SHAPE(128256, 4096, 14336, 32, 32, 8) "}", 8030261248, 6979321856,
          131072 },
        { "Llama-3.1-70B", LLAMA SHAPE(128256, 8192, 28672, 80, 64, 8) "}", 70553706496,
          68451041280, 327680 },
        { "Llama-2-7B", LLAMA SHAPE(32000, 4096, 11008, 32, 32, null) "}", 6738415616, 6476005376,
          524288 },
        { "Mistral-7B-v0.1", MISTRAL SHAPE(32000, 4096, 14336, 32, 32, 8) "}", 7241732096,
          6979321856, 131072 },
        { "TinyLlama-1.1B", LLAMA SHAPE(32000, 2048, 5632, 22, 32, 4) "}", 1100048384, 968884224,
          22528 },
        { "Qwen2.5-0.5B", QWEN2 SHAPE(151936, 896, 4864, 24, 14, 2) TIED "}", 494032768, 357826560,
          12288 },
        { "Qwen2.5-1.5B", QWEN2 SHAPE(151936, 1536, 8960, 28, 12, 2) TIED "}", 1543714304,
          1310195712, 28672 },
        { "Qwen2.5-7B", QWEN2 SHAPE(152064, 3584, 18944, 28, 28, 4) "}", 7615616512, 6525288448,
          57344 },
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c = parsed(rows[i].text);
        CHECK(config_n_parameters(&c) == rows[i].parameters, "%s has %lld parameters, not %lld",
              rows[i].name, (long long)rows[i].parameters, (long long)config_n_parameters(&c));
        CHECK(config_n_linear_parameters(&c) == rows[i].linear,
              "%s has %lld in its linears, not %lld", rows[i].name, (long long)rows[i].linear,
              (long long)config_n_linear_parameters(&c));
        CHECK(config_kv_bytes_per_token(&c, DTYPE_F16) == rows[i].kv_bytes,
              "%s caches %lld bytes a token, not %lld", rows[i].name, (long long)rows[i].kv_bytes,
              (long long)config_kv_bytes_per_token(&c, DTYPE_F16));
    }
}

static void test_standard_values(void **state)
{
    struct config c = parsed("{\"model_type\":\"llama\"}");
    (void)state;

    CHECK(c.family == FAMILY_LLAMA && c.vocab_size == 32000 && c.hidden_size == 4096 &&
              c.intermediate_size == 11008 && c.n_layers == 32 && c.n_heads == 32 &&
              c.n_kv_heads == 32 && c.head_dim == 128 && c.max_position == 2048,
          "an empty Llama file has LlamaConfig's shapes");
    CHECK(c.rms_norm_eps == 1e-6 && !c.tied && !c.qkv_bias && !c.o_bias && !c.mlp_bias &&
              c.rope.theta == 10000 && c.rope.type == ROPE_DEFAULT && c.sliding_window == 0,
          "and its other standard values");
    CHECK(c.bos_id == 1 && c.n_eos == 1 && c.eos_ids[0] == 2 && c.stored_dtype == DTYPE_F32,
          "and ids 1 and 2");
    c = parsed("{\"model_type\":\"mistral\"}");
    CHECK(c.n_kv_heads == 8 && c.intermediate_size == 14336 && c.max_position == 131072 &&
              c.sliding_window == 4096 && c.window_first_layer == 0,
          "an empty Mistral file has 8 key heads and a window of 4096");
    c = parsed("{\"model_type\":\"mistral\",\"num_key_value_heads\":null}");
    CHECK(c.n_kv_heads == 32, "null key heads are as many as heads");
    c = parsed("{\"architectures\":[\"Qwen2ForCausalLM\"]}");
    CHECK(c.vocab_size == 151936 && c.intermediate_size == 22016 && c.max_position == 32768 &&
              c.qkv_bias && !c.o_bias && !c.mlp_bias && c.sliding_window == 0 && c.bos_id == -1 &&
              c.n_eos == 0,
          "an empty Qwen2 file has biases on q, k, v and no window, bos or eos");
    CHECK(strcmp(family_name(c.family), "qwen2") == 0, "qwen2 is called so");
}

static void test_biases_and_heads(void **state)
{
    struct config c = parsed(LLAMA ",\"attention_bias\":true,\"mlp_bias\":true}");
    int64_t n_out, n_in;
    char module[64];
    (void)state;

    CHECK(c.qkv_bias && c.o_bias && c.mlp_bias, "a Llama may have all biases");
    CHECK(config_linear_bias(&c, LINEAR_O) && config_linear_bias(&c, LINEAR_DOWN), "each of them");
    c = parsed(QWEN2 ",\"attention_bias\":true,\"mlp_bias\":true}");
    CHECK(c.qkv_bias && !c.o_bias && !c.mlp_bias, "a Qwen2 has its own, whatever the file says");
    CHECK(config_linear_bias(&c, LINEAR_V) && !config_linear_bias(&c, LINEAR_O), "on v, not on o");
    c = parsed(LLAMA SHAPE(512, 96, 200, 2, 6, 3) ",\"head_dim\":40}");
    config_linear_shape(&c, LINEAR_O, &n_out, &n_in);
    CHECK(n_out == 96 && n_in == 240, "a given head_dim wins over hidden_size / heads");
    config_linear_shape(&c, LINEAR_K, &n_out, &n_in);
    CHECK(n_out == 120 && n_in == 96, "also for k");
    config_linear_module(&c, 11, LINEAR_GATE, module, sizeof module);
    CHECK(strcmp(module, "model.layers.11.mlp.gate_proj") == 0, "modules have full names");
    c = parsed(LLAMA SHAPE(512, 96, 200, 2, 6, 3) ",\"head_dim\":null}");
    CHECK(c.head_dim == 16, "a null head_dim is hidden_size / heads");
}

static void test_windows(void **state)
{
    struct config c;
    (void)state;

    c = parsed(MISTRAL ",\"sliding_window\":null}");
    CHECK(c.sliding_window == 0, "null switches Mistral's window off");
    c = parsed(MISTRAL ",\"sliding_window\":512}");
    CHECK(c.sliding_window == 512, "a number sets it");
    c = parsed(LLAMA ",\"sliding_window\":512}");
    CHECK(c.sliding_window == 0, "a Llama has none");
    c = parsed(QWEN2 ",\"sliding_window\":512}");
    CHECK(c.sliding_window == 0, "Qwen2 has one only with use_sliding_window");
    c = parsed(QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":512,"
                     "\"max_window_layers\":3,\"num_hidden_layers\":5}");
    CHECK(c.sliding_window == 512 && c.window_first_layer == 3, "and then from max_window_layers");
    c = parsed(QWEN2 ",\"use_sliding_window\":true}");
    CHECK(c.sliding_window == 4096 && c.window_first_layer == 28, "4096 and 28 by standard");
    c = parsed(QWEN2 ",\"use_sliding_window\":true,\"max_window_layers\":9,\"num_hidden_layers\":3,"
                     "\"layer_types\":[\"full_attention\",\"sliding_attention\","
                     "\"sliding_attention\"]}");
    CHECK(c.sliding_window == 4096 && c.window_first_layer == 1, "layer_types wins");
    c = parsed(QWEN2 ",\"use_sliding_window\":true,\"num_hidden_layers\":1,"
                     "\"layer_types\":[\"full_attention\"]}");
    CHECK(c.sliding_window == 0, "layer_types without a sliding layer switches it off");
    refused(QWEN2 ",\"use_sliding_window\":true,\"num_hidden_layers\":2,"
                  "\"layer_types\":[\"sliding_attention\",\"full_attention\"]}",
            "layer 1");
    refused(QWEN2 ",\"use_sliding_window\":true,\"num_hidden_layers\":1,"
                  "\"layer_types\":[\"chunked_attention\"]}",
            "chunked_attention");
    refused(QWEN2 ",\"use_sliding_window\":true,\"num_hidden_layers\":3,"
                  "\"layer_types\":[\"full_attention\"]}",
            "layer_types");
}

static void test_special_ids(void **state)
{
    struct config c;
    struct err e = ERR_INIT;
    (void)state;

    c = parsed(LLAMA ",\"eos_token_id\":[128001,128008,128009],\"bos_token_id\":128000}");
    CHECK(c.n_eos == 3 && c.eos_ids[2] == 128009 && c.bos_id == 128000, "eos may be a list");
    c = parsed(LLAMA ",\"eos_token_id\":null,\"bos_token_id\":null}");
    CHECK(c.n_eos == 0 && c.bos_id == -1, "null means none");
    CHECK_OK(parse(LLAMA ",\"eos_token_id\":7}",
                   "{\"eos_token_id\":[8,9],\"bos_token_id\":5,\"repetition_penalty\":1.1}", &c,
                   &e),
             e);
    CHECK(c.n_eos == 2 && c.eos_ids[0] == 8 && c.bos_id == 5 && c.repetition_penalty == 1.1,
          "generation_config.json overrides");
    CHECK_OK(parse(LLAMA ",\"eos_token_id\":7}", "{\"temperature\":0.6}", &c, &e), e);
    CHECK(c.n_eos == 1 && c.eos_ids[0] == 7 && c.repetition_penalty == 1, "where it speaks");
    refused(LLAMA ",\"eos_token_id\":\"</s>\"}", "eos_token_id");
    refused(LLAMA ",\"eos_token_id\":-1}", "eos_token_id");
}

static void test_dtypes(void **state)
{
    (void)state;
    CHECK(parsed(LLAMA ",\"torch_dtype\":\"bfloat16\"}").stored_dtype == DTYPE_BF16, "old key");
    CHECK(parsed(LLAMA ",\"dtype\":\"float16\"}").stored_dtype == DTYPE_F16, "new key");
    CHECK(parsed(LLAMA ",\"dtype\":\"float16\",\"torch_dtype\":\"float32\"}").stored_dtype ==
              DTYPE_F16,
          "the new key wins");
    refused(LLAMA ",\"dtype\":\"int8\"}", "int8");
}

static void test_rotations(void **state)
{
    struct config c;
    (void)state;

    c = parsed(LLAMA ",\"rope_theta\":500000.0,\"rope_scaling\":{\"factor\":32.0,"
                     "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                     "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}}");
    CHECK(c.rope.type == ROPE_LLAMA3 && c.rope.theta == 500000 && c.rope.factor == 32 &&
              c.rope.original_max_position == 8192,
          "the old form is read");
    c = parsed(LLAMA ",\"rope_theta\":1.0,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":3},"
                     "\"rope_parameters\":{\"factor\":32.0,\"low_freq_factor\":1.0,"
                     "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64,"
                     "\"rope_theta\":500000.0,\"rope_type\":\"llama3\"}}");
    CHECK(c.rope.type == ROPE_LLAMA3 && c.rope.theta == 500000 &&
              c.rope.original_max_position == 64,
          "rope_parameters wins over rope_theta and rope_scaling");
    c = parsed(LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}}");
    CHECK(c.rope.type == ROPE_DYNAMIC && c.rope.factor == 2, "the old key \"type\" is read");
    c = parsed(LLAMA ",\"max_position_embeddings\":4096,\"rope_scaling\":{\"rope_type\":\"yarn\","
                     "\"factor\":4.0,\"original_max_position_embeddings\":1024}}");
    CHECK(c.rope.original_max_position == 4096 && c.rope.beta_fast == 32 && c.rope.truncate &&
              isnan(c.rope.attention_factor),
          "yarn of the old form measures by max_position_embeddings");
    c = parsed(LLAMA
               ",\"max_position_embeddings\":4096,\"rope_parameters\":{\"rope_type\":\"yarn\","
               "\"rope_theta\":10000,\"original_max_position_embeddings\":1024,"
               "\"truncate\":false,\"attention_factor\":1.5}}");
    CHECK(c.rope.original_max_position == 1024 && c.rope.factor == 4 && !c.rope.truncate &&
              c.rope.attention_factor == 1.5,
          "yarn of the new form by the length trained on, and its factor may be absent");
    refused(LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"factor\":2.0}}", "longrope");
    refused(LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", "factor");
    refused(LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":-2}}", "factor");
    refused(LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2}}", "low_freq_factor");
    refused(LLAMA ",\"rope_scaling\":\"linear\"}", "rope_scaling");
    refused(LLAMA ",\"rope_theta\":0}", "rope_theta");
    refused(LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
            "full_attention");
}

static void test_what_is_refused(void **state)
{
    (void)state;
    refused("{\"architectures\":[\"GPT2LMHeadModel\"],\"model_type\":\"gpt2\"}", "GPT2LMHeadModel");
    refused("{\"architectures\":[\"LlamaForSequenceClassification\"],\"model_type\":\"llama\"}",
            "LlamaForSequenceClassification");
    refused("{\"model_type\":\"gemma\"}", "gemma");
    refused("{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"mistral\"}", "mistral");
    refused("{}", "model_type");
    refused("[]", "object");
    refused(LLAMA ",\"hidden_act\":\"gelu\"}", "gelu");
    refused(LLAMA ",\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}", "gptq");
    refused(LLAMA ",\"quantization_config\":{\"quant_method\":\"bitsandbytes\"}}", "bitsandbytes");
    refused(LLAMA ",\"hidden_size\":\"wide\"}", "hidden_size");
    refused(LLAMA ",\"hidden_size\":0}", "hidden_size");
    refused(LLAMA ",\"vocab_size\":-5}", "vocab_size");
    refused(LLAMA ",\"num_attention_heads\":30}", "num_attention_heads");
    refused(LLAMA ",\"num_key_value_heads\":5}", "num_key_value_heads");
    refused(LLAMA ",\"head_dim\":15}", "odd");
    refused(LLAMA ",\"head_dim\":1026}", "1024");
    refused(LLAMA ",\"rms_norm_eps\":\"small\"}", "rms_norm_eps");
    refused(LLAMA ",\"tie_word_embeddings\":1}", "tie_word_embeddings");
    CHECK(parsed(LLAMA ",\"quantization_config\":null}").hidden_size == 4096, "null is no method");
}

static void test_files(void **state)
{
    char folder[] = "/tmp/llq_config.XXXXXX";
    struct config c;
    struct err e = ERR_INIT;
    (void)state;

    CHECK(mkdtemp(folder) != NULL, "a temporary folder can be made");
    char *config = file_join(folder, "config.json");
    char *generation = file_join(folder, "generation_config.json");
    CHECK(config_read(folder, &c, &e) < 0 && strstr(e.text, "config.json"),
          "a folder without config.json is refused: %s", e.text);
    CHECK_OK(file_replace(config, LLAMA "}", strlen(LLAMA "}"), &e), e);
    CHECK_OK(config_read(folder, &c, &e), e);
    CHECK(c.eos_ids[0] == 2, "eos is config.json's");
    CHECK_OK(file_replace(generation, "{\"eos_token_id\":9}", 18, &e), e);
    CHECK_OK(config_read(folder, &c, &e), e);
    CHECK(c.n_eos == 1 && c.eos_ids[0] == 9, "eos is generation_config.json's");
    CHECK_OK(config_read_file(config, &c, &e), e);
    CHECK(c.eos_ids[0] == 2, "a config.json alone has its own");
    CHECK_OK(file_replace(config, "{", 1, &e), e);
    CHECK(config_read(folder, &c, &e) < 0 && strstr(e.text, config), "bad JSON names its file: %s",
          e.text);
    unlink(config);
    unlink(generation);
    rmdir(folder);
    free(config);
    free(generation);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_of_published_models),
        cmocka_unit_test(test_standard_values),
        cmocka_unit_test(test_biases_and_heads),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_special_ids),
        cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_rotations),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_files),
    };

    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
