// SPDX-License-Identifier: Apache-2.0
// SPIRITOS_PUBLIC: what libspiritos.so exports; all else is hidden.
// SPIRITOS_HIDDEN: what lies inside something public and is not.
#pragma once

#define SPIRITOS_PUBLIC __attribute__((visibility("default")))
#define SPIRITOS_HIDDEN __attribute__((visibility("hidden")))
