/* test_provenance.c - what produced the results is written down. */
#include "check.h"

#include "record/provenance.h"
#include "record/store_h5.h"

#include <string.h>

static const char *text(const struct js *p, const char *key)
{
    const char *value = js_text(js_get(p, key));

    CHECK(value, "%s is there", key);
    return value;
}

static void everything_that_is_known(void **state)
{
    static const struct provenance_rank ranks[] = { { "node07", "NVIDIA H200" },
                                                    { "node08", NULL } };
    static const struct provenance_version versions[] = { { "mpi", "Open MPI 4.1.4" },
                                                          { "cuda", NULL } };
    const char *data_text = "{\"coqa\":{\"path\":\"dev.json\",\"sha256\":\"ab\"}}";
    const char *profile_text = "{\"name\":\"lm-eval-0.4.12\",\"add_bos\":false}";
    struct err e = ERR_INIT;
    struct js *data = js_parse(data_text, strlen(data_text), &e);
    struct js *profile = js_parse(profile_text, strlen(profile_text), &e);
    struct provenance_input in = { .llq_version = "0.1.0",
                                   .git_commit = "abc",
                                   .n_versions = 2,
                                   .versions = versions,
                                   .n_ranks = 2,
                                   .ranks = ranks,
                                   .backend = "cuda",
                                   .model_path = "/models/m",
                                   .model_sha256 = "cd",
                                   .data = data,
                                   .profile = profile };

    (void)state;
    setenv("SLURM_JOB_ID", "77", 1);
    setenv("SLURM_JOB_NODELIST", "node[07-08]", 1);
    unsetenv("SLURM_ARRAY_TASK_ID");
    struct js *p = provenance_make(&in);
    CHECK(strcmp(text(p, "llq_version"), "0.1.0") == 0 && strcmp(text(p, "git_commit"), "abc") == 0,
          "which build");
    CHECK(js_int(js_get(p, "mpi_ranks")) == 2 && js_count(js_get(p, "hostnames")) == 2 &&
              strcmp(js_text(js_at(js_get(p, "hostnames"), 1)), "node08") == 0,
          "one host name a rank");
    CHECK(strcmp(js_text(js_at(js_get(p, "gpu_names"), 0)), "NVIDIA H200") == 0 &&
              strcmp(js_text(js_at(js_get(p, "gpu_names"), 1)), "") == 0,
          "one device a rank, empty where it is not known");
    CHECK(strcmp(text(p, "mpi_version"), "Open MPI 4.1.4") == 0 && !js_get(p, "cuda_version"),
          "versions of what is part of the build, and no others");
    CHECK(strcmp(text(p, "hdf5_version"), store_h5_version()) == 0 &&
              strspn(store_h5_version(), "0123456789.") >= 5,
          "HDF5's version is a number: %s", store_h5_version());
    CHECK(strcmp(text(p, "coqa_path"), "dev.json") == 0 &&
              strcmp(text(p, "coqa_sha256"), "ab") == 0,
          "which data");
    CHECK(strcmp(text(p, "model_sha256"), "cd") == 0 && *text(p, "model_revision") == 0,
          "which model");
    CHECK(strcmp(text(p, "profile"), profile_text) == 0, "every switch of the profile, as JSON");
    CHECK(js_kind(js_get(p, "profile_add_bos")) == JS_BOOL &&
              !js_bool(js_get(p, "profile_add_bos")),
          "and each of them alone");
    CHECK(strcmp(text(p, "slurm_job_id"), "77") == 0 &&
              strcmp(text(p, "slurm_job_nodelist"), "node[07-08]") == 0 &&
              !js_get(p, "slurm_array_task_id"),
          "the Slurm job, as far as there is one");
    CHECK(*text(p, "system"), "the operating system");
    js_release(p);

    unsetenv("SLURM_JOB_ID");
    p = provenance_make(&in);
    CHECK(*text(p, "slurm_job_id") == 0, "slurm_job_id is empty without Slurm");
    js_release(p);
    js_release(data);
    js_release(profile);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(everything_that_is_known) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
