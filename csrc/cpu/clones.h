// One source, three sets of instructions: the loader picks by the processor it finds.
#pragma once

#include <features.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define DEITSEC_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DEITSEC_CLONES
#endif
