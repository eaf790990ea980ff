/* SPDX-License-Identifier: Apache-2.0
 * A C program against libspiritos.so alone: regions, heaps and errors.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/spiritos_c.h"

static int failures;

static void check(int holds, const char* what) {
  if (holds) return;
  printf("failed: %s (last error: %s)\n", what, spiritos_error());
  ++failures;
}

int main(void) {
  spiritos_space* space = NULL;
  const char* bad[] = {"SPIRITOS_BUDGTE=64M", NULL};
  check(spiritos_space_create(bad, &space) == EINVAL, "an unknown option is refused");
  check(strstr(spiritos_error(), "SPIRITOS_BUDGET") != NULL, "the error suggests the right name");
  const char* options[] = {"SPIRITOS_BUDGET=8M", NULL};
  check(spiritos_space_create(options, &space) == 0, "a space is made");
  if (space == NULL) return 1;

  void* begin = NULL;
  const size_t size = (size_t)32 << 20;
  check(spiritos_region_create(space, size, &begin) == 0, "a region is made");
  unsigned char* bytes = begin;
  for (size_t i = 0; i < size; i += 4096) bytes[i] = (unsigned char)(i >> 12);
  int wrong = 0;
  for (size_t i = 0; i < size; i += 4096) wrong += bytes[i] != (unsigned char)(i >> 12);
  check(wrong == 0, "a region four times the budget keeps its bytes");
  check(spiritos_evict(space, begin, size) == 0, "a region is evicted");
  check(spiritos_pin(space, begin, 4096) == 0, "a page is pinned");
  check(spiritos_discard(space, begin, 4096) == EBUSY, "a pinned page is not discarded");
  spiritos_unpin(space, begin, 4096);
  check(spiritos_discard(space, begin, 4096) == 0 && bytes[0] == 0, "a discarded page is zero");
  check(spiritos_discard(space, bytes + 1, 4096) == EINVAL, "a range is whole pages");
  check(spiritos_set_budget(space, 4096) == EINVAL, "a tiny budget is refused");

  spiritos_heap* heap = NULL;
  check(spiritos_heap_create(space, (size_t)64 << 20, &heap) == 0, "a heap is made");
  char* text = far_malloc(heap, 100);
  check(text != NULL && far_usable_size(heap, text) >= 100, "a far allocation has its size");
  strcpy(text, "far");
  text = far_realloc(heap, text, 1 << 20);
  check(text != NULL && strcmp(text, "far") == 0, "realloc keeps the contents");
  unsigned long* zeroes = far_calloc(heap, 1000, sizeof(long));
  check(zeroes != NULL && zeroes[999] == 0, "calloc gives zeroes");
  check(far_calloc(heap, (size_t)1 << 62, 8) == NULL, "calloc sees the overflow");
  void* aligned = far_aligned_alloc(heap, 65536, 10);
  check(aligned != NULL && (size_t)aligned % 65536 == 0, "alignment holds");
  far_free(heap, aligned);
  far_free(heap, zeroes);
  far_free(heap, text);
  far_free(heap, NULL);
  char* json = spiritos_stats_json(space);
  check(json != NULL && strstr(json, "\"evicted_pages\":") != NULL, "statistics are JSON");
  free(json);
  spiritos_heap_destroy(heap);
  check(spiritos_unmap(space, begin, size) == 0, "a region is unmapped");
  spiritos_space_destroy(space);
  printf("%s\n", failures == 0 ? "ok" : "FAILED");
  return failures == 0 ? 0 : 1;
}
