/* SPDX-License-Identifier: Apache-2.0
 * libspiritos in C: spaces, regions and far heaps; the same as libos/space.h and
 * alloc/far_malloc.h, whose comments hold here too.
 *
 * Calls that can fail return 0 or an errno value; the calling thread's
 * spiritos_error() then says what was wrong and what to do. Sizes are in bytes,
 * ranges are whole pages of 4096 bytes. Any thread may call anything, but no
 * signal handler may.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spiritos_space spiritos_space;
typedef struct spiritos_heap spiritos_heap;

/* The calling thread's last error; valid until its next failing call. */
const char* spiritos_error(void);

/* `options` is a null-terminated array of "SPIRITOS_NAME=value", or null; they
 * come on top of the environment's. EINVAL names the option and what is allowed. */
int spiritos_space_create(const char* const* options, spiritos_space** space);
/* Nothing may touch the space's regions or heaps any more. */
void spiritos_space_destroy(spiritos_space* space);

int spiritos_region_create(spiritos_space* space, size_t size, void** begin);
int spiritos_unmap(spiritos_space* space, void* begin, size_t size);
int spiritos_discard(spiritos_space* space, void* begin, size_t size);
int spiritos_protect(spiritos_space* space, void* begin, size_t size, int protection);
int spiritos_move(spiritos_space* space, void* begin, size_t size, size_t new_size,
                  void** new_begin);
int spiritos_prefetch(spiritos_space* space, void* begin, size_t size);
int spiritos_evict(spiritos_space* space, void* begin, size_t size);
int spiritos_pin(spiritos_space* space, void* begin, size_t size);
void spiritos_unpin(spiritos_space* space, void* begin, size_t size);
int spiritos_set_budget(spiritos_space* space, size_t budget);

/* Statistics as JSON, to be freed with free(3); null when memory is short. */
char* spiritos_stats_json(const spiritos_space* space);

/* A heap of at most `max_size` bytes of far address space. */
int spiritos_heap_create(spiritos_space* space, size_t max_size, spiritos_heap** heap);
void spiritos_heap_destroy(spiritos_heap* heap);
void* far_malloc(spiritos_heap* heap, size_t size);
void* far_calloc(spiritos_heap* heap, size_t count, size_t size);
void* far_aligned_alloc(spiritos_heap* heap, size_t alignment, size_t size);
void* far_realloc(spiritos_heap* heap, void* pointer, size_t size);
void far_free(spiritos_heap* heap, void* pointer);
size_t far_usable_size(const spiritos_heap* heap, const void* pointer);

#ifdef __cplusplus
} /* extern "C" */
#endif
