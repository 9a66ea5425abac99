// Choice of a kernel from the inventory. Errors are std::invalid_argument, and list the kernels that there are.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/hadamard.h"
#include "kernels/kernel.h"

namespace dualbinary {

// Environment variable that forces one ISA: a name of isa_name(). Read whenever a kernel is chosen.
inline constexpr char kIsaVariable[] = "DUALBINARY_ISA";

// All kernels in this build, fastest first.
std::span<const MatMulKernel* const> inventory();

// The same of SignedHadamard.
std::span<const HadamardKernel* const> hadamard_inventory();

// True if this machine can run the kernel.
bool runs_here(const MatMulKernel& kernel);
bool runs_here(const HadamardKernel& kernel);

// The fastest kernel that runs here, keeps the promise of the spec's accuracy_level, serves its levels, reads its
// layout and has the ISA that DUALBINARY_ISA names, if it is set. Throws where that ISA is unknown, not in this build,
// or not supported by this machine, and where no such kernel reads the layout. Nothing else of the spec is looked at.
const MatMulKernel& choose_kernel(const Spec& spec);

// The stored layouts that choose_kernel() finds a kernel for, by number.
std::vector<std::int64_t> readable_layouts();

// The kernel that takes calls of many rows (MatMulKernel::min_rows) from `kernel`, whose packed form it reads; null
// where there is none, this machine cannot run it, it does not serve the spec's levels, or DUALBINARY_ISA names another
// ISA.
const MatMulKernel* many_rows_kernel(const MatMulKernel& kernel, const Spec& spec);

// The kernel of that name. Throws where there is none, it does not run here, its results are too coarse for the spec's
// accuracy_level, or it does not serve its levels or read its layout.
const MatMulKernel& kernel_named(std::string_view name, const Spec& spec);

// The same of SignedHadamard, whose kernels serve every transform.
const HadamardKernel& choose_hadamard_kernel();
const HadamardKernel& hadamard_kernel_named(std::string_view name);

// What lies between the products of a block.
const ElementwiseKernel& choose_elementwise_kernel();
const AttentionKernel& choose_attention_kernel();

}  // namespace dualbinary
