/* toml_reader.cpp - see toml_reader.h.  The only file that knows toml++, and the only C++. */
#include <toml++/toml.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

extern "C" {
#include "sweep/toml_reader.h"
}

namespace
{

/* What cannot be part of a sweep; caught in toml_parse() like the parser's own errors. */
struct refusal {
    int line;
    const char *reason;
};

int line_of(const toml::node &node)
{
    return static_cast<int>(node.source().begin.line);
}

std::string plain_text(std::string_view text, int line)
{
    if (text.find('\0') != std::string_view::npos)
        throw refusal{ line, "a string or key may not hold a 0 byte" };
    return std::string(text);
}

void convert_into(toml_value *to, const toml::node &node);

/* The tree is linked to its parent before it is filled, so a refusal half-way leaks nothing. */
void add(toml_value *to, const char *key, const toml::node &node, int line)
{
    toml_value *item = toml_new(TOML_KIND_BOOL, line);
    toml_add(to, key, item);
    convert_into(item, node);
}

void convert_table(toml_value *to, const toml::table &table)
{
    struct member {
        int line;
        unsigned column;
        std::string key;
        const toml::node *node;
    };
    std::vector<member> members;

    for (auto &&[key, node] : table) {
        int line = static_cast<int>(key.source().begin.line);
        members.push_back({ line, static_cast<unsigned>(key.source().begin.column),
                            plain_text(key.str(), line), &node });
    }
    std::stable_sort(members.begin(), members.end(), [](const member &a, const member &b) {
        return a.line != b.line ? a.line < b.line : a.column < b.column;
    });
    for (const member &m : members)
        add(to, m.key.c_str(), *m.node, m.line);
}

void convert_into(toml_value *to, const toml::node &node)
{
    if (auto *table = node.as_table()) {
        to->kind = TOML_KIND_TABLE;
        convert_table(to, *table);
    } else if (auto *array = node.as_array()) {
        to->kind = TOML_KIND_ARRAY;
        for (auto &&item : *array)
            add(to, nullptr, item, line_of(item));
    } else if (auto *text = node.as_string()) {
        to->kind = TOML_KIND_TEXT;
        to->text = mem_text(plain_text(text->get(), to->line).c_str());
    } else if (auto *integer = node.as_integer()) {
        to->kind = TOML_KIND_INT;
        to->integer = integer->get();
    } else if (auto *real = node.as_floating_point()) {
        to->kind = TOML_KIND_REAL;
        to->real = real->get();
    } else if (auto *boolean = node.as_boolean()) {
        to->kind = TOML_KIND_BOOL;
        to->boolean = boolean->get();
    } else {
        throw refusal{ to->line, "dates and times have no place in a sweep file" };
    }
}

} // namespace

extern "C" struct toml_value *toml_parse(const char *name, const char *text, size_t n_bytes,
                                         struct err *e)
{
    toml_value *root = nullptr;

    if (n_bytes > TOML_TEXT_MAX) {
        err_set(e, ERR_USAGE, "%s: has %zu bytes, a sweep file may have %d", name, n_bytes,
                TOML_TEXT_MAX);
        return nullptr;
    }
    if (toml_check_depth(name, text, n_bytes, e) < 0)
        return nullptr;
    try {
        toml::table table = toml::parse(std::string_view(text, n_bytes));
        root = toml_new(TOML_KIND_TABLE, 1);
        convert_table(root, table);
        return root;
    } catch (const toml::parse_error &why) {
        bytes reason{};
        toml_show_text(std::string(why.description()).c_str(), 400, &reason);
        err_set(e, ERR_USAGE, "%s:%d: %s", name, static_cast<int>(why.source().begin.line),
                reason.data);
        bytes_release(&reason);
    } catch (const refusal &why) {
        err_set(e, ERR_USAGE, "%s:%d: %s", name, why.line, why.reason);
    } catch (const std::exception &why) {
        err_set(e, ERR_USAGE, "%s: %s", name, why.what());
    }
    toml_release(root);
    return nullptr;
}
