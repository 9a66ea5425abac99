# The kernels for NVIDIA GPUs: another shared object, which libdualbinary opens when a session asks for CUDA; and the same
# sources compiled for the CPU, where tests run them lane by lane (src/cuda/simt/emulated.h).

set(DUALBINARY_CUDA_SOURCES
    src/capi/dualbinary_cuda.cc
    src/core/codes.cc
    src/core/memory.cc
    src/core/spec.cc
    src/cuda/activations_f16.cu
    src/cuda/inventory.cc
    src/cuda/weight.cu)
set(DUALBINARY_CUDA_PROBE_SOURCE "${PROJECT_SOURCE_DIR}/tests/runtime/cuda_probe/probe.cu")

# "symbol,minimum,maximum" for each line of the inventory.
set(inventory "${CMAKE_CURRENT_SOURCE_DIR}/src/cuda/kernels.inc")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${inventory}")
file(STRINGS "${inventory}" DUALBINARY_CUDA_KERNELS REGEX "^DUALBINARY_CUDA_KERNEL")
list(TRANSFORM DUALBINARY_CUDA_KERNELS REPLACE "^.*\\((.*), (.*), (.*)\\).*$" "\\1,\\2,\\3")

# Properties of all these libraries.
function(dualbinary_cuda_target target)
  add_dependencies(${target} dualbinary_contract)
  target_compile_features(${target} PRIVATE cxx_std_20)
  target_compile_definitions(${target} PRIVATE DUALBINARY_BUILDING "DUALBINARY_VERSION=\"${PROJECT_VERSION}\"")
  target_include_directories(${target} PRIVATE src "${generated_dir}")
  target_link_libraries(${target} PRIVATE Threads::Threads)
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

# Compiles a line of the inventory for those of `architectures` that it is for; without any the build lacks the kernel.
function(dualbinary_cuda_kernel line architectures)
  string(REPLACE "," ";" line "${line}")
  list(GET line 0 symbol)
  list(GET line 1 minimum)
  list(GET line 2 maximum)
  set(wanted "")
  foreach(architecture IN LISTS architectures)
    string(REGEX MATCH "^[0-9]+" capability "${architecture}")
    if(capability GREATER_EQUAL minimum AND capability LESS_EQUAL maximum)
      list(APPEND wanted "${architecture}")
    endif()
  endforeach()
  if(NOT wanted)
    return()
  endif()
  add_library(dualbinary_cuda_${symbol} OBJECT src/cuda/${symbol}.cu)
  dualbinary_cuda_target(dualbinary_cuda_${symbol})
  set_target_properties(dualbinary_cuda_${symbol} PROPERTIES CUDA_ARCHITECTURES "${wanted}" CUDA_STANDARD 20)
  target_sources(dualbinary_cuda PRIVATE $<TARGET_OBJECTS:dualbinary_cuda_${symbol}>)
  string(TOUPPER ${symbol} upper)
  foreach(target dualbinary_cuda dualbinary_cuda_${symbol}) # without its declaration a constant would be its file's alone
    target_compile_definitions(${target} PRIVATE DUALBINARY_HAS_${upper}=1)
  endforeach()
endfunction()

function(dualbinary_add_cuda)
  # Machine code for each, and none for later ones: a kernel that was never compiled for a GPU should not run there.
  # Whoever says 90 means 90a: wgmma is there in no other.
  list(TRANSFORM DUALBINARY_CUDA_ARCHITECTURES REPLACE "-(real|virtual)$" "")
  list(TRANSFORM DUALBINARY_CUDA_ARCHITECTURES REPLACE "^90$" "90a")
  list(TRANSFORM DUALBINARY_CUDA_ARCHITECTURES APPEND -real OUTPUT_VARIABLE real)
  add_library(dualbinary_cuda SHARED ${DUALBINARY_CUDA_SOURCES} src/cuda/device.cu)
  set(targets dualbinary_cuda)
  if(DUALBINARY_CUDA_PROBE)
    add_library(dualbinary_cuda_probe SHARED "${DUALBINARY_CUDA_PROBE_SOURCE}")
    list(APPEND targets dualbinary_cuda_probe)
  endif()
  foreach(target IN LISTS targets)
    dualbinary_cuda_target(${target})
    set_target_properties(
      ${target}
      PROPERTIES CUDA_ARCHITECTURES "${real}"
                 CUDA_STANDARD 20
                 CUDA_RUNTIME_LIBRARY Static)
  endforeach()
  foreach(line IN LISTS DUALBINARY_CUDA_KERNELS)
    dualbinary_cuda_kernel("${line}" "${real}")
  endforeach()
  target_compile_definitions(
    dualbinary_cuda PRIVATE "DUALBINARY_CUDA_ARCHITECTURES=\"$<JOIN:${DUALBINARY_CUDA_ARCHITECTURES},$<COMMA>>\"")
endfunction()

function(dualbinary_add_cuda_emulation)
  set(sources ${DUALBINARY_CUDA_SOURCES} "${DUALBINARY_CUDA_PROBE_SOURCE}" src/cuda/simt/emulated.cc
              src/cuda/emulated_device.cc)
  add_library(dualbinary_cuda_emulated SHARED)
  foreach(line IN LISTS DUALBINARY_CUDA_KERNELS)
    string(REGEX REPLACE ",.*" "" symbol "${line}")
    list(APPEND sources src/cuda/${symbol}.cu)
    string(TOUPPER ${symbol} upper)
    target_compile_definitions(dualbinary_cuda_emulated PRIVATE DUALBINARY_HAS_${upper}=1)
  endforeach()
  target_sources(dualbinary_cuda_emulated PRIVATE ${sources})
  set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX)
  dualbinary_cuda_target(dualbinary_cuda_emulated)
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
