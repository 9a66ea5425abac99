# Flags by which a defect of this library would be harder to use, and by which equal sources give equal bytes wherever they
# are built. Only flags that compiler and linker take, and not where sanitizers watch: these want the program as it is
# written, and its real paths.
#
#   stack protector, stack clash    an overflow of a buffer on the stack ends the process
#   _FORTIFY_SOURCE                 so does a copy past an object whose size the compiler knows
#   fcf-protection                  jumps go only to where one is expected (x86-64 CPUs that check it)
#   relro, now, noexecstack         addresses of functions are read-only once loaded; the stack is no code

include(CheckCXXCompilerFlag)
include(CheckLinkerFlag)

# Not for Windows and macOS: the one has its own (ASLR and DEP are always on), the other protects the stack by default.
function(dualbinary_find_hardening)
  set(compile_options "")
  set(link_options "")
  if(CMAKE_SYSTEM_NAME MATCHES "^(Linux|Android)$" AND NOT DUALBINARY_SANITIZE)
    set(candidates -fstack-protector-strong -fstack-clash-protection)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
      list(APPEND candidates -fcf-protection=full)
    endif()
    foreach(flag IN LISTS candidates)
      string(MAKE_C_IDENTIFIER "dualbinary_takes${flag}" takes)
      check_cxx_compiler_flag(${flag} ${takes})
      if(${takes})
        list(APPEND compile_options ${flag})
      endif()
    endforeach()
    if(NOT ANDROID) # whose compiler sets it
      list(APPEND compile_options $<$<CONFIG:Release>:-U_FORTIFY_SOURCE> $<$<CONFIG:Release>:-D_FORTIFY_SOURCE=2>)
    endif()
    foreach(word relro now noexecstack)
      check_linker_flag(CXX "LINKER:-z,${word}" dualbinary_takes_z_${word})
      if(dualbinary_takes_z_${word})
        list(APPEND link_options "LINKER:-z,${word}")
      endif()
    endforeach()
  endif()
  if(NOT DUALBINARY_SANITIZE)
    check_cxx_compiler_flag(-ffile-prefix-map=a=b dualbinary_takes_prefix_map)
    if(dualbinary_takes_prefix_map)
      list(APPEND compile_options "-ffile-prefix-map=${PROJECT_BINARY_DIR}=build"
           "-ffile-prefix-map=${PROJECT_SOURCE_DIR}=.")
    endif()
  endif()
  set(dualbinary_hardening_compile
      "${compile_options}"
      PARENT_SCOPE)
  set(dualbinary_hardening_link
      "${link_options}"
      PARENT_SCOPE)
endfunction()

dualbinary_find_hardening()
