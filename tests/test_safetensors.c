/* test_safetensors.c - what the reference parser accepts and refuses, byte by byte. */
#include "check.h"

#include "base/file.h"
#include "model/safetensors.h"

#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/llq_safetensors.XXXXXX";
static char *path;

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    path = file_join(folder, "x.safetensors");
    return 0;
}

static int drop_folder(void **state)
{
    (void)state;
    unlink(path);
    free(path);
    return rmdir(folder);
}

/* A file: the length (n_header unless it should lie), the header, n_data bytes counting up. */
static void put(uint64_t length, const char *header, size_t n_header, size_t n_data)
{
    struct bytes b = BYTES_INIT;
    struct err e = ERR_INIT;

    for (int i = 0; i < 8; i++)
        bytes_add(&b, &(unsigned char){ (unsigned char)(length >> 8 * i) }, 1);
    bytes_add(&b, header, n_header);
    for (size_t i = 0; i < n_data; i++)
        bytes_add(&b, &(unsigned char){ (unsigned char)i }, 1);
    CHECK_OK(file_replace(path, b.data, b.n, &e), e);
    bytes_release(&b);
}

static void accepted(const char *what, size_t n_tensors)
{
    struct safetensors s = SAFETENSORS_INIT;
    struct err e = ERR_INIT;
    int rc = safetensors_open(&s, path, &e);

    CHECK(rc == 0, "%s is accepted, but: %s", what, e.text);
    CHECK(s.n == n_tensors, "%s has %zu tensors, not %zu", what, n_tensors, s.n);
    safetensors_close(&s);
    safetensors_close(&s);
}

/* Refused, with every one of the words in the message. */
static void refused(const char *what, const char *word, const char *word2)
{
    struct safetensors s = SAFETENSORS_INIT;
    struct err e = ERR_INIT;
    int rc = safetensors_open(&s, path, &e);

    CHECK(rc == -1 && e.code == ERR_INPUT, "%s is refused", what);
    CHECK(strstr(e.text, word) && strstr(e.text, word2) && strstr(e.text, "x.safetensors"),
          "%s: \"%s\" says \"%s\" and \"%s\" and names the file", what, e.text, word, word2);
    safetensors_close(&s);
}

static void header(const char *json, size_t n_data)
{
    put(strlen(json), json, strlen(json), n_data);
}

static void test_the_reference_vectors(void **state)
{
    struct err e = ERR_INIT;
    (void)state;

    CHECK_OK(file_replace(path, "", 0, &e), e);
    refused("an empty file", "too short", "");
    put(0x3C, "", 0, 0);
    refused("a length byte 3C and nothing", "does not fit", "60");
    put(1, "\xFF", 1, 0);
    refused("one byte that is not UTF-8", "JSON", "header");
    put(1, "{", 1, 0);
    refused("an open brace", "JSON", "header");
    put(6, "{}\r \t\n", 6, 0);
    accepted("white space behind the object", 0);
    put(6, "\t\n{}\r ", 6, 0);
    accepted("white space around the object", 0);
    put(0, "", 0, 0);
    refused("a header of 0 bytes", "JSON", "header");
    put(8, "{}\0\0\0\0\0\0", 8, 0);
    refused("a header padded with NUL", "JSON", "header");
    put(2, "[]", 2, 0);
    refused("an array", "instead of an object", "");
    put(100000001, "{}", 2, 0);
    refused("a length over 100,000,000", "too large", "100000001");
    put(100000000, "{}", 2, 0);
    refused("a length of 100,000,000 in a small file", "does not fit", "100000000");
    put(UINT64_MAX, "{}", 2, 0);
    refused("a length of 2^64 - 1", "too large", "");
    put(2, "{}", 2, 1);
    refused("data without a tensor", "too long", "");
}

#define I32_2x2 "{\"a\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}"

static void test_shapes_and_offsets(void **state)
{
    (void)state;
    header(I32_2x2, 16);
    accepted("a 2 x 2 tensor", 1);
    header(I32_2x2, 17);
    refused("the same with a byte behind", "too long", "17");
    header(I32_2x2, 14);
    refused("the same without the last two bytes", "truncated", "14");
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[2,0],\"data_offsets\":[0,0]}}", 0);
    accepted("a tensor with a dimension 0", 1);
    header("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4);
    accepted("a scalar", 1);
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,4]}}", 4);
    refused("a shape larger than its bytes", "tensor a", "[2, 2]");
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[2,18446744073709551614],"
           "\"data_offsets\":[0,16]}}",
           16);
    refused("a dimension of 2^64 - 2", "tensor a", "overflows");
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[2,9223372036854775807],"
           "\"data_offsets\":[0,16]}}",
           16);
    refused("a dimension of 2^63 - 1", "tensor a", "overflows");
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[9223372036854775808,2,0],"
           "\"data_offsets\":[0,0]}}",
           0);
    refused("an overflow before a dimension 0", "tensor a", "overflows");
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[0,18446744073709551614],"
           "\"data_offsets\":[0,0]}}",
           0);
    accepted("a dimension of 2^64 - 2 behind a 0", 1);
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[36893488147419103232],"
           "\"data_offsets\":[0,4]}}",
           4);
    refused("a dimension of 2^65", "tensor a", "unsigned 64-bit");
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4);
    refused("a negative dimension", "tensor a", "unsigned 64-bit");
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4);
    refused("a fractional dimension", "tensor a", "unsigned 64-bit");
    header("{\"a\":{\"dtype\":\"I32\",\"shape\":[1.0],\"data_offsets\":[0.0,4.0]}}", 4);
    refused("reals instead of integers", "tensor a", "unsigned 64-bit");
    header("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2);
    refused("three 4-bit elements", "tensor a", "whole bytes");
    header("{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2);
    accepted("four 4-bit elements", 1);
}

static void test_entries(void **state)
{
    static const struct {
        const char *json, *word;
    } bad[] = {
        { "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", "dtype is missing" },
        { "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", "shape is missing" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "data_offsets are missing" },
        { "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", "F33" },
        { "{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "f32" },
        { "{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", "not a string" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", "not an array" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", "two numbers" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", "two numbers" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,-4]}}", "unsigned" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", "unsigned" },
        { "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
          "duplicate" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
          "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
          "duplicate" },
        { "{\"a\":[\"F32\",[1],[0,4]]}", "instead of an object" },
        { "{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "NUL" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "hole" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
          "tensor b" },
        { "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
          "tensor b" },
        { "{\"__metadata__\":3}", "__metadata__" },
        { "{\"__metadata__\":{\"a\":3}}", "__metadata__.a" },
        { "{\"__metadata__\":{},\"__metadata__\":{}}", "duplicate" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":"
          "[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]}}",
          "nests deeper" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        header(bad[i].json, 4);
        refused(bad[i].json, bad[i].word, "");
    }
    header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 0);
    refused("an end before its begin", "tensor a", "end before");
    header("{\"__metadata__\":null,\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],"
           "\"more\":{\"x\":[1]}}}",
           4);
    accepted("unknown keys in an entry and a null __metadata__", 1);
    header("{\"__metadata__\":{\"k\":\"v [[[[[[[[[[[[[[[[[[[[ \\\" {\"}}", 0);
    accepted("brackets in a string", 0);
}

static void test_ten_names_of_one_place(void **state)
{
    struct bytes b = BYTES_INIT;
    (void)state;

    for (int i = 0; i < 10; i++)
        bytes_printf(&b, "%s\"t%d\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}",
                     i ? "," : "{", i);
    bytes_text(&b, "}");
    header(b.data, 16);
    refused("ten names of the same bytes", "tensor t1", "overlap");
    bytes_release(&b);

    header("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
           "\"c\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[0,7],\"data_offsets\":[0,0]}}",
           2);
    accepted("empty tensors before a full one", 3);
}

static void test_reading_what_was_written(void **state)
{
    static const float a[3] = { 1, -2, 0.5f };
    static const uint16_t b[4] = { 1, 2, 3, 4 };
    static const uint8_t c[1] = { 9 };
    struct safetensors_out out[] = {
        { .name = "c", .dtype = DTYPE_U8, .n_dims = 1, .shape = { 1 }, .data = c },
        { .name = "b", .dtype = DTYPE_BF16, .n_dims = 2, .shape = { 2, 2 }, .data = b },
        { .name = "a \"quoted\"", .dtype = DTYPE_F32, .n_dims = 1, .shape = { 3 }, .data = a },
    };
    struct safetensors s = SAFETENSORS_INIT;
    struct err e = ERR_INIT;
    float read_a[3];
    uint16_t read_b[2];
    (void)state;

    CHECK_OK(safetensors_write(path, out, 3, &e), e);
    CHECK_OK(safetensors_open(&s, path, &e), e);
    const struct safetensors_tensor *ta = safetensors_find(&s, "a \"quoted\"");
    const struct safetensors_tensor *tb = safetensors_find(&s, "b");
    CHECK(s.n == 3 && ta && tb && !safetensors_find(&s, "d"), "the three names are found alone");
    CHECK(ta->offset % 8 == 0 && ta->offset < tb->offset, "wide types come first, aligned");
    CHECK(tb->n_dims == 2 && tb->shape[0] == 2 && tb->dtype == DTYPE_BF16, "b keeps its shape");
    CHECK_OK(safetensors_read(&s, ta, 0, ta->n_bytes, read_a, &e), e);
    CHECK(memcmp(a, read_a, sizeof a) == 0, "a comes back");
    CHECK_OK(safetensors_read(&s, tb, 2, 4, read_b, &e), e);
    CHECK(read_b[0] == 2 && read_b[1] == 3, "the middle of b comes back");

    CHECK(truncate(path, ta->offset + 4) == 0, "the file can be cut");
    CHECK(safetensors_read(&s, ta, 0, ta->n_bytes, read_a, &e) < 0 &&
              strstr(e.text, "a \"quoted\"") && strstr(e.text, "x.safetensors"),
          "a file that shrank is an error that names the tensor: %s", e.text);
    safetensors_close(&s);
}

static void test_what_is_no_file(void **state)
{
    struct safetensors s = { 0 };
    struct err e = ERR_INIT;
    (void)state;

    CHECK(safetensors_open(&s, folder, &e) < 0 && strstr(e.text, "plain file"),
          "a folder is no file: %s", e.text);
    CHECK(safetensors_open(&s, "/nowhere/x", &e) < 0 && strstr(e.text, "/nowhere/x"),
          "an absent file is named: %s", e.text);
    s = (struct safetensors){ 0 };
    safetensors_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_reference_vectors),
        cmocka_unit_test(test_shapes_and_offsets),
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_ten_names_of_one_place),
        cmocka_unit_test(test_reading_what_was_written),
        cmocka_unit_test(test_what_is_no_file),
    };

    return cmocka_run_group_tests_name("safetensors", tests, make_folder, drop_folder);
}
