# layers.awk - includes point down, and one foreign library has one home.
#
#   awk -f tests/layers.awk src/*.[ch] src/*/*.[ch] src/*/*.cpp cuda/*
#
# Prints file:line for each include that goes up or sideways and ends with status 1.

BEGIN {
    may["base"]      = ""
    may["backend"]   = "base"
    may["cpu"]       = "base backend"
    may["cuda"]      = "base backend"
    may["tokenizer"] = "base"
    may["model"]     = "base backend"
    may["quant"]     = "base backend model"
    may["eval"]      = "base backend model tokenizer"
    may["bench"]     = "base backend model"
    may["sweep"]     = "base"
    may["record"]    = "base sweep"
    may["sched"]     = "base sweep record"

    # Header of a library, and the files that may know it.
    home["jansson"]  = "^src/base/js\\.c$"
    home["openssl/"] = "^src/base/hash\\.c$"
    home["pcre2"]    = "^src/tokenizer/"
    home["utf8proc"] = "^src/tokenizer/"
    home["toml++"]   = "^src/sweep/toml_reader\\.cpp$"
    home["hdf5"]     = "^src/record/store_h5"
    home["H5"]       = "^src/record/store_h5"
    home["mpi.h"]    = "^src/sched/link_mpi\\.c$"
    home["hwloc"]    = "^src/sched/"
    home["cblas"]    = "^src/cpu/"
    home["openblas"] = "^src/cpu/"
    home["cuda"]     = "^cuda/"
    home["cublas"]   = "^cuda/"
    home["nccl"]     = "^cuda/"
}

# The room of a path: "src/quant/rtn.c" is in quant, "src/main.c" in none.
function room_of(path,    part, n)
{
    n = split(path, part, "/")
    if (part[1] == "cuda")
        return "cuda"
    return part[1] == "src" && n > 2 ? part[2] : ""
}

function wrong(why)
{
    printf "%s:%d: %s\n", FILENAME, FNR, why
    n_wrong++
}

function check_own(name,    part, n, other)
{
    n = split(name, part, "/")
    other = n > 1 ? part[1] : ""
    if (name ~ /(^|\/)\.\.?\//)
        wrong("include by its room, not by a relative path: " name)
    else if (room == "" || other == room || (room == "cuda" && n == 1 && name ~ /\.(cuh|h)$/ && name in beside))
        return
    else if (other == "")
        wrong("room " room " may not see a file directly in src/: " name)
    else if (!(other in may))
        wrong("no room is called " other ": " name)
    else if (index(" " may[room] " ", " " other " ") == 0)
        wrong("room " room " may see " (may[room] == "" ? "nothing else" : may[room]) \
              ", not " other ": " name)
}

function check_foreign(name,    key)
{
    for (key in home)
        if (index(name, key) == 1 && FILENAME !~ home[key])
            wrong("<" name "> belongs to " home[key])
}

# Local headers of cuda/ are included by their bare name.
BEGIN {
    for (i = 1; i < ARGC; i++) {
        n = split(ARGV[i], part, "/")
        if (part[1] == "cuda")
            beside[part[n]] = 1
    }
}

FNR == 1 {
    n_files++
    room = room_of(FILENAME)
    if (room != "" && !(room in may))
        wrong("room " room " is not in the table of tests/layers.awk")
}

/^[ \t]*#[ \t]*include[ \t]*"/ {
    name = $0
    sub(/^[^"]*"/, "", name)
    sub(/".*$/, "", name)
    check_own(name)
}

/^[ \t]*#[ \t]*include[ \t]*</ {
    name = $0
    sub(/^[^<]*</, "", name)
    sub(/>.*$/, "", name)
    check_foreign(name)
}

END {
    if (!n_files) {
        print "layers.awk: no files given"
        exit 1
    }
    if (n_wrong) {
        printf "%d of the includes in %d files go where they may not\n", n_wrong, n_files
        exit 1
    }
    printf "includes of %d files point down\n", n_files
}
