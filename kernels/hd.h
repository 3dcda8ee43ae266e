// The only place that knows whether a compiler is nvcc. Code marked VARVE_HD is the shared meaning
// of a computation: the CPU and the CUDA loops call it and may reorder it, never redefine it.
#pragma once

#ifdef __CUDACC__
#define VARVE_HD __host__ __device__
#else
#define VARVE_HD
#endif
