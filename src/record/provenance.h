/* provenance.h - what produced the results: which build, where, from which model and data.
 *
 * Everything that could explain a different number, and nothing that changes one.  Members of the
 * object become attributes of /provenance; llq_version and git_commit go to the root.  */
#pragma once

#include "base/js.h"
#include "sweep/sweep_file.h"

struct provenance_rank {
    const char *hostname;
    const char *device; /* "NVIDIA H200", "cpu"; NULL: not known */
};

struct provenance_version {
    const char *name; /* "mpi", "cuda", "driver", "nccl", "openblas", "compiler" */
    const char *text; /* NULL: not part of this build, and left out */
};

struct provenance_input {
    const char *llq_version, *git_commit;
    int n_versions;
    const struct provenance_version *versions; /* HDF5's own is added here */
    int n_ranks;
    const struct provenance_rank *ranks; /* [n_ranks] */
    const char *backend;                 /* "cpu", "cuda" */
    /* The resolved folder; revision and hash may be NULL. */
    const char *model_path, *model_revision, *model_sha256;
    const struct js *data;     /* { "coqa": { "path": text, "sha256": text }, ... } or NULL */
    const struct js *profile;  /* every resolved switch of the task profile, or NULL */
    const struct sweep *sweep; /* for the shared settings; NULL: left out */
};

/* Owned by the caller (js_release).  Adds the system, the processor and the Slurm job this
 * process runs in. */
struct js *provenance_make(const struct provenance_input *in);

/* Every SLURM_* variable that names the job: { "slurm_job_id": text, ... } into `object`.
 * slurm_job_id is always there, empty without Slurm. */
void provenance_add_slurm(struct js *object);
