/* bench_tokenize.c - seconds to tokenize a text, reading and parsing tokenizer.json included.
 *
 *   bench_tokenize TOKENIZER.json TEXT [repeats]
 *
 * A TOKENIZER.json.gz is unpacked first, outside the clock.  The bar: WikiText-2 test with the
 * Llama-3.2 tokenizer within one second on one core.  */
#include "base/clock.h"
#include "base/file.h"
#include "tokenizer/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double run(const char *json, const char *text_path, size_t *n_ids, struct err *e)
{
    struct tokenizer *t = NULL;
    struct bytes text = BYTES_INIT;
    struct token_ids ids = TOKEN_IDS_INIT;
    int64_t start = clock_ns();
    double seconds = -1;

    if (tokenizer_open_files(&t, json, NULL, e) == 0 && file_read(text_path, &text, e) == 0 &&
        tokenizer_encode(t, text.data ? text.data : "", text.n, true, &ids, e) == 0)
        seconds = (double)(clock_ns() - start) * 1e-9;
    *n_ids = ids.n;
    token_ids_release(&ids);
    bytes_release(&text);
    tokenizer_close(t);
    return seconds;
}

int main(int argc, char **argv)
{
    struct err e = ERR_INIT;
    char json[4096], command[9000];
    double best = INFINITY;
    size_t n_ids = 0;

    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenize TOKENIZER.json[.gz] TEXT [repeats]\n");
        return 2;
    }
    snprintf(json, sizeof json, "%s", argv[1]);
    if (strlen(json) > 3 && strcmp(json + strlen(json) - 3, ".gz") == 0) {
        snprintf(json, sizeof json, "build/bench_tokenize.json");
        snprintf(command, sizeof command, "mkdir -p build && gunzip -c '%s' > %s", argv[1], json);
        if (system(command) != 0)
            return 1;
    }
    int repeats = argc > 3 ? atoi(argv[3]) : 5;
    for (int i = 0; i < repeats; i++) {
        double seconds = run(json, argv[2], &n_ids, &e);
        if (!(seconds >= 0)) {
            fprintf(stderr, "bench_tokenize: %s\n", e.text);
            return 1;
        }
        best = seconds < best ? seconds : best;
    }
    printf("tokenize %s: %zu ids, best of %d: %.3f s (parse of %s included)\n", argv[2], n_ids,
           repeats, best, argv[1]);
    return 0;
}
