/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people type about VMs, read: variables, places to copy from and to, signals, keys. Nothing here asks anybody.
 */
#ifndef BANGER_CTL_VM_WORDS_H
#define BANGER_CTL_VM_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>

/* "NAME=VALUE", or "NAME" for what it is here. *ret: the whole, owned by the caller; NULL: it is not set here.
 * BAD_REQUEST for what is no variable. */
int vm_variable(const char *word, char **ret, struct banger_error *err);

/* "VM:PATH". An absolute path, and one that begins with a dot, are files of this machine, whatever colons they have.
 * *ret_vm: owned by the caller, NULL for a file of this machine; *ret_path: borrowed from word. */
int vm_place(const char *word, char **ret_vm, const char **ret_path, struct banger_error *err);

/* "KILL", "SIGKILL", "9". -EINVAL. */
int vm_signal(const char *word, int *ret);

/* How many lines: "all" (-1) or a number. -EINVAL. */
int vm_lines(const char *word, int64_t *ret);

/* A key: one character, "^X" for Ctrl-X, "none" (-1). -EINVAL. */
int vm_key(const char *word, int *ret);

/* ---- paths, as cp reads them */

/* Ends in "/." or is ".": what is in the directory is meant, not the directory. */
bool vm_path_means_content(const char *path);
bool vm_path_ends_in_slash(const char *path);
/* The last component, "." when there is none ("/", "..", "a/."); the caller frees. NULL: no memory. */
char *vm_path_name(const char *path);
/* What leads to it: "/" or "." when there is nothing; the caller frees. NULL: no memory. */
char *vm_path_directory(const char *path);
/* Where a link at `path` leads that says `target`; the caller frees. NULL: no memory. */
char *vm_path_follow(const char *path, const char *target);

#endif
