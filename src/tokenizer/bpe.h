/* bpe.h - a BPE model in memory: two hash tables that bpe_read.c fills and bpe.c asks. */
#pragma once

#include "tokenizer/stages.h"

#include <string.h>

struct bpe_token {
    uint32_t at, n_bytes; /* in bpe.text */
    int32_t id;
};

struct pair { /* left and right id -> the id they merge into */
    uint64_t key;
    uint32_t rank;
    int32_t id;
};

struct bpe {
    struct bytes text;
    struct bpe_token *tokens;
    size_t n_tokens;
    uint32_t *slots; /* open addressing: 1 + index into tokens, 0 empty */
    uint32_t slots_mask;
    uint32_t *by_id; /* [n_ids] 1 + index into tokens, 0: no such id */
    size_t n_ids;
    struct pair *pairs; /* open addressing; key NO_PAIR: empty */
    uint64_t pairs_mask;
    int32_t byte_ids[256]; /* of <0x00> ... <0xFF>; -1: absent */
    int32_t ascii_ids[128];
    int32_t unk_id; /* -1: none */
    bool byte_fallback, fuse_unk, ignore_merges;
};

#define NO_PAIR UINT64_MAX

static inline uint64_t bpe_hash(const char *s, size_t n)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ n;

    for (; n >= 8; s += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, s, 8);
        h = (h ^ word) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    uint64_t rest = 0;
    if (n)
        memcpy(&rest, s, n);
    h = (h ^ rest) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    return h * 0xD6E8FEB86659FD93u >> 16;
}

static inline uint64_t bpe_hash_pair(uint64_t key)
{
    key = (key ^ key >> 32) * 0xD6E8FEB86659FD93u;
    return key ^ key >> 32;
}

/* The entry of a pair of ids, or the empty one it would take. */
static inline struct pair *bpe_pair(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t i = bpe_hash_pair(key) & b->pairs_mask;

    while (b->pairs[i].key != NO_PAIR && b->pairs[i].key != key)
        i = (i + 1) & b->pairs_mask;
    return &b->pairs[i];
}
