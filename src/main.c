/* main.c - start, hand over, exit code. */
#include "base/log.h"
#include "cli.h"
#include "dry_run.h"
#include "run_job.h"
#include "run_sweep.h"
#include "sched/node.h"
#include "show.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* 1: hand out no more (USR1); 2: leave at once, resumably (TERM, INT). */
static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    if (number == SIGUSR1 && stop == 0)
        stop = 1;
    else if (number != SIGUSR1)
        stop = 2;
}

static void catch_signals(void)
{
    struct sigaction act = { .sa_handler = on_signal };

    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
}

static int wrong(const struct err *e)
{
    fprintf(stderr, "llq_sweep: %s\n", e->text);
    return EXIT_USAGE;
}

/* Threads by the cores this rank may use, for the engine that is started next. */
static void choose_threads(bool quiet)
{
    struct node_cores cores;
    char number[16];

    node_cores(node_local_size(), &cores);
    snprintf(number, sizeof number, "%d", cores.n_threads);
    setenv("OMP_NUM_THREADS", number, 0);
    /* Threads that spin at barriers while another program has their core cost more than they
     * gain: a job of 0.3 s took 7 s beside a compiler on two cores. */
    setenv("OMP_WAIT_POLICY", "passive", 0);
    if (cores.idle && node_world_rank() == 0 && !quiet)
        log_warn("each rank is bound to %d of %d cores and some stay idle: mpirun --bind-to none, "
                 "or more ranks",
                 cores.n_bound, cores.n_machine);
}

/* Without a process of its own the engine is a thread: OpenMP has read the environment before we
 * set it, and gives each new thread of the program all cores. */
static int setup_here(void *runner, const struct engine_site *site, const void *setup,
                      size_t n_bytes, struct err *e)
{
    const char *threads = getenv("OMP_NUM_THREADS");

    if (threads && atoi(threads) > 0)
        omp_set_num_threads(atoi(threads));
    return runner_setup(runner, site, setup, n_bytes, e);
}

static struct prepare_options prepare_options_of(const struct cli *c)
{
    const char *shuffle = getenv("LLQ_TEST_SHUFFLE");

    return (struct prepare_options){ .sweep_path = c->sweep_path,
                                     .overrides = c->overrides,
                                     .backend = c->backend,
                                     .share_gpu = c->share_gpu,
                                     .shuffle = shuffle && strcmp(shuffle, "1") == 0 };
}

static int run(const struct cli *c, int *argc, char ***argv)
{
    struct engine_body body = { .setup = setup_here,
                                .run = runner_run,
                                .close = runner_close,
                                .context = c->isolate ? NULL : runner_new() };
    struct engine *engine = NULL;
    struct link *link = NULL;
    struct err e = ERR_INIT;
    int status = EXIT_USAGE;
    char *command_line = show_command_line(*argc, *argv);

    log_set_terminal_level(c->quiet ? LOG_ERROR : c->verbose ? LOG_INFO : LOG_WARN);
    choose_threads(c->quiet);
    /* The engine first: a process that has started MPI should not be copied. */
    if (engine_start(&engine, c->isolate, &body, &e) < 0 || link_open(&link, argc, argv, &e) < 0) {
        engine_stop(engine);
        free(command_line);
        return wrong(&e);
    }
    catch_signals();
    if (link_rank(link) == 0) {
        struct run_options o = { .cli = c,
                                 .prepare = prepare_options_of(c),
                                 .program = (*argv)[0],
                                 .command_line = command_line,
                                 .versions = show_versions(),
                                 .stop = &stop };
        status = run_sweep(&o, link, engine);
    } else {
        status = sched_work(link, engine, run_silent_s(), &e) < 0 ? wrong(&e) : 0;
    }
    engine_stop(engine);
    link_close(link, status);
    log_close();
    free(command_line);
    return status;
}

int main(int argc, char **argv)
{
    struct cli c;
    struct err e = ERR_INIT;
    int rc;

    if (cli_parse(argc, argv, &c, &e) < 0)
        return node_world_rank() == 0 ? wrong(&e) : EXIT_USAGE;
    if (c.engine_fd >= 0) {
        struct engine_body body = { runner_setup, runner_run, runner_close, runner_new() };
        rc = engine_serve(c.engine_fd, &body);
    } else if (!show_wanted(&c)) {
        rc = run(&c, &argc, &argv);
    } else if (node_world_rank() != 0) {
        rc = 0; /* under mpirun one rank answers */
    } else {
        rc = show(&c, &e);
        rc = rc < 0 ? wrong(&e) : rc;
    }
    cli_release(&c);
    return rc;
}
