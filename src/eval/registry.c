/* registry.c - the list of tasks, in running order: sanity first, it is the cheapest. */
#include "eval/task.h"

#include <string.h>

extern const struct task task_sanity, task_coqa, task_perplexity, task_divergence,
    task_multiple_choice;

const struct task *const tasks[] = { &task_sanity,          &task_coqa,
                                     &task_perplexity,      &task_divergence,
                                     &task_multiple_choice, NULL };

const struct task *task_find(const char *name)
{
    for (int i = 0; tasks[i]; i++)
        if (strcmp(tasks[i]->name, name) == 0)
            return tasks[i];
    return NULL;
}
