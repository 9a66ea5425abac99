# The kernels for NVIDIA GPUs: a shared object of its own, which libdualbinary opens when a session asks for CUDA; and the
# same sources compiled for the CPU, where tests run them lane by lane (src/cuda/simt/emulated.h).

set(DUALBINARY_CUDA_SOURCES
    src/core/spec.cc
    src/cuda/inventory.cc
    src/cuda/launcher.cc)
set(DUALBINARY_CUDA_KERNELS
    src/cuda/halves.cu
    src/cuda/prefill_mma.cu
    src/cuda/decode_s8.cu
    src/cuda/simt/probe.cu
    src/cuda/weight.cu)

# What both libraries have in common.
function(dualbinary_cuda_target target)
  add_dependencies(${target} dualbinary_contract)
  target_compile_features(${target} PRIVATE cxx_std_20)
  target_compile_definitions(${target} PRIVATE DUALBINARY_BUILDING "DUALBINARY_VERSION=\"${PROJECT_VERSION}\"")
  target_include_directories(${target} PRIVATE src "${generated_dir}")
  set_target_properties(
    ${target}
    PROPERTIES PREFIX lib
               CXX_VISIBILITY_PRESET hidden
               CUDA_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               POSITION_INDEPENDENT_CODE ON
               LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}"
               RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}")
endfunction()

# Kernels that only some of the architectures have the instructions for.
function(dualbinary_cuda_kernel source name architectures)
  if(NOT architectures)
    return()
  endif()
  add_library(dualbinary_cuda_${name} OBJECT "${source}")
  dualbinary_cuda_target(dualbinary_cuda_${name})
  set_target_properties(dualbinary_cuda_${name} PROPERTIES CUDA_ARCHITECTURES "${architectures}" CUDA_STANDARD 20)
  target_sources(dualbinary_cuda PRIVATE $<TARGET_OBJECTS:dualbinary_cuda_${name}>)
  string(TOUPPER ${name} upper)
  target_compile_definitions(dualbinary_cuda PRIVATE DUALBINARY_HAS_${upper}=1)
endfunction()

function(dualbinary_add_cuda)
  # Machine code for each, and none for later ones: a kernel that was never compiled for a GPU should not run there.
  # Whoever says 90 means 90a: wgmma is there in no other.
  list(TRANSFORM DUALBINARY_CUDA_ARCHITECTURES REPLACE "-(real|virtual)$" "")
  list(TRANSFORM DUALBINARY_CUDA_ARCHITECTURES REPLACE "^90$" "90a")
  list(TRANSFORM DUALBINARY_CUDA_ARCHITECTURES APPEND -real OUTPUT_VARIABLE real)
  set(binary ${real})
  list(FILTER binary INCLUDE REGEX "^[89][0-9]a?-real$")
  set(hopper ${real})
  list(FILTER hopper INCLUDE REGEX "^90a-real$")
  add_library(dualbinary_cuda SHARED ${DUALBINARY_CUDA_SOURCES} ${DUALBINARY_CUDA_KERNELS} src/cuda/device.cu)
  dualbinary_cuda_target(dualbinary_cuda)
  set_target_properties(
    dualbinary_cuda
    PROPERTIES CUDA_ARCHITECTURES "${real}"
               CUDA_STANDARD 20
               CUDA_RUNTIME_LIBRARY Static)
  dualbinary_cuda_kernel(src/cuda/decode_b1.cu decode_b1 "${binary}")
  dualbinary_cuda_kernel(src/cuda/prefill_wgmma.cu prefill_wgmma "${hopper}")
  target_compile_definitions(
    dualbinary_cuda PRIVATE "DUALBINARY_CUDA_ARCHITECTURES=\"$<JOIN:${DUALBINARY_CUDA_ARCHITECTURES},$<COMMA>>\"")
  install(TARGETS dualbinary_cuda LIBRARY DESTINATION runtime_ext RUNTIME DESTINATION runtime_ext)
endfunction()

function(dualbinary_add_cuda_emulation)
  set(kernels ${DUALBINARY_CUDA_KERNELS} src/cuda/decode_b1.cu src/cuda/prefill_wgmma.cu)
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX)
  add_library(
    dualbinary_cuda_emulated SHARED ${DUALBINARY_CUDA_SOURCES} ${kernels} src/cuda/simt/emulated.cc
                                    src/cuda/simt/emulated_device.cc)
  dualbinary_cuda_target(dualbinary_cuda_emulated)
  target_compile_definitions(dualbinary_cuda_emulated PRIVATE DUALBINARY_HAS_DECODE_B1=1
                                                              DUALBINARY_HAS_PREFILL_WGMMA=1)
  target_link_libraries(dualbinary_cuda_emulated PRIVATE Threads::Threads)
  # A checked longjmp() refuses to leave a fiber's stack.
  target_compile_options(dualbinary_cuda_emulated PRIVATE -x c++ -U_FORTIFY_SOURCE)
  # An access that is not aligned is an error on a GPU; here it ends the process as an illegal instruction.
  target_compile_options(dualbinary_cuda_emulated PRIVATE -fsanitize=alignment -fsanitize-undefined-trap-on-error)
  if(DUALBINARY_WARNINGS_AS_ERRORS)
    target_compile_options(dualbinary_cuda_emulated PRIVATE -Wall -Wextra -Werror)
  endif()
endfunction()

if(DUALBINARY_CUDA)
  enable_language(CUDA)
  dualbinary_add_cuda()
endif()
if(DUALBINARY_CUDA_EMULATED)
  dualbinary_add_cuda_emulation()
endif()
