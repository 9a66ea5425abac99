# One row for each ISA beyond the baseline: its name in kernels.inc (DUALBINARY_HAS_<name>), source file and flags.
# Only these files get the flags. What they may include, and why: src/kernels/kernel.h.

set(DUALBINARY_SKIP_ISAS
    ""
    CACHE STRING "Names of rows to leave out, such as AVX512: builds for tests on one machine need not have what it cannot run")

include(CheckCXXCompilerFlag)

function(dualbinary_add_isa_kernels target)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
    # GCC's pass that schedules before registers are given out lengthens lives until they spill, in the innermost loops.
    set(no_spills $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
    dualbinary_isa(${target} NEON src/kernels/arm_neon.cc ${no_spills})
    dualbinary_isa(${target} NEON src/kernels/hadamard_neon.cc)
    dualbinary_isa(${target} NEON src/kernels/elementwise_neon.cc)
    dualbinary_isa(${target} NEON src/kernels/attention_neon.cc)
    dualbinary_isa(${target} I8MM src/kernels/arm_i8mm.cc -mcpu=generic+i8mm ${no_spills})
  elseif(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    return()
  else()
    # GCC's own AVX-512 header trips these warnings of GCC's (its bug 105593), wherever the intrinsics are used.
    set(quiet $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    set(avx2 -mavx2 -mfma -mf16c)
    dualbinary_isa(${target} AVX2 src/kernels/x86_avx2.cc ${avx2})
    # GCC's elimination of partial redundancies keeps copies of sums, which then no longer fit into registers.
    set(no_copies $<$<CXX_COMPILER_ID:GNU>:-fno-tree-pre>)
    dualbinary_isa(${target} AVX2 src/kernels/x86_avx2_levels.cc ${avx2} ${no_copies})
    check_cxx_compiler_flag(-mavxvnni knows_avxvnni)  # GCC from 11 on
    if(knows_avxvnni)
      dualbinary_isa(${target} AVXVNNI src/kernels/x86_avxvnni_levels.cc ${avx2} -mavxvnni ${no_copies})
    endif()
    dualbinary_isa(${target} AVX2 src/kernels/hadamard_avx2.cc ${avx2})
    dualbinary_isa(${target} AVX2 src/kernels/elementwise_avx2.cc ${avx2})
    dualbinary_isa(${target} AVX2 src/kernels/attention_avx2.cc ${avx2})
    # icelake-server: the first CPUs with all of these. By its general costs GCC would read every table twice, once for
    # each plane.
    set(tune $<$<CXX_COMPILER_ID:GNU>:-mtune=icelake-server>)
    set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi ${tune})
    dualbinary_isa(${target} AVX512 src/kernels/x86_avx512.cc ${avx512} ${quiet})
    dualbinary_isa(${target} AVX512 src/kernels/x86_avx512_levels.cc ${avx512} ${quiet})
    dualbinary_isa(${target} AVX512 src/kernels/hadamard_avx512.cc ${avx512} ${quiet})
    dualbinary_isa(${target} AVX512 src/kernels/elementwise_avx512.cc ${avx512} ${quiet})
    dualbinary_isa(${target} AVX512 src/kernels/attention_avx512.cc ${avx512} ${quiet})
  endif()
endfunction()

function(dualbinary_isa target name source)
  if(name IN_LIST DUALBINARY_SKIP_ISAS)
    return()
  endif()
  target_sources(${target} PRIVATE "${source}")
  set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${ARGN}")
  target_compile_definitions(${target} PRIVATE "DUALBINARY_HAS_${name}=1")
endfunction()
