# Finds the C headers of ONNX Runtime and sets DUALBINARY_ORT_HEADERS to their directory. They are in no Python wheel, so they
# are looked for in this order:
#
#   1. DUALBINARY_ORT_INCLUDE_DIR, given by the user
#   2. an installed package: CMake config, pkg-config, or the system's include directories
#   3. an npm package that carries the full public set inside its iOS framework, downloaded once into the user's cache
#
# The library is not linked: the runtime hands its function table to the custom op.

set(DUALBINARY_ORT_INCLUDE_DIR
    ""
    CACHE PATH "Directory of onnxruntime_c_api.h; empty to look for it")

set(ort_header onnxruntime_c_api.h)
# The op for CUDA devices is built against version 18 of the C API, the one for CPUs against 17; an older header lacks some
# of their functions.
set(ort_minimum_api 18)

set(ort_npm_name com.github.asus4.onnxruntime)
set(ort_npm_version 0.4.9)
set(ort_npm_sha256 e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d)
set(ort_npm_headers "package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers")

set(ort_ways_out
    "Either pass -DDUALBINARY_ORT_INCLUDE_DIR=DIR, where DIR holds ${ort_header} of ONNX Runtime 1.18 or newer (in the \
include directory of its release archives), or install a development package of ONNX Runtime, or install npm and allow \
it to download ${ort_npm_name}@${ort_npm_version} (143 MiB, once for each user).")

# Sets `result` to TRUE if `dir` has a header that is new enough.
function(dualbinary_usable_ort_headers dir result)
  set(${result}
      FALSE
      PARENT_SCOPE)
  if(NOT EXISTS "${dir}/${ort_header}")
    return()
  endif()
  file(STRINGS "${dir}/${ort_header}" line REGEX "^#define ORT_API_VERSION [0-9]+")
  if(line MATCHES "ORT_API_VERSION ([0-9]+)" AND CMAKE_MATCH_1 GREATER_EQUAL ort_minimum_api)
    set(${result}
        TRUE
        PARENT_SCOPE)
  endif()
endfunction()

# Directories of installed packages that might have it.
function(dualbinary_installed_ort_headers result)
  set(dirs "")
  find_package(onnxruntime CONFIG QUIET)
  if(TARGET onnxruntime::onnxruntime)
    get_target_property(config_dirs onnxruntime::onnxruntime INTERFACE_INCLUDE_DIRECTORIES)
    list(APPEND dirs ${config_dirs})
  endif()
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(ORT_PKG QUIET libonnxruntime)
    list(APPEND dirs ${ORT_PKG_INCLUDE_DIRS})
  endif()
  find_path(DUALBINARY_ORT_SYSTEM_INCLUDE_DIR ${ort_header} PATH_SUFFIXES onnxruntime onnxruntime/core/session)
  mark_as_advanced(DUALBINARY_ORT_SYSTEM_INCLUDE_DIR)
  list(APPEND dirs "${DUALBINARY_ORT_SYSTEM_INCLUDE_DIR}")
  set(${result}
      "${dirs}"
      PARENT_SCOPE)
endfunction()

function(dualbinary_user_cache result)
  if(WIN32)
    set(base "$ENV{LOCALAPPDATA}")
  elseif(NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
    set(base "$ENV{XDG_CACHE_HOME}")
  else()
    set(base "$ENV{HOME}/.cache")
  endif()
  set(${result}
      "${base}/dualbinary"
      PARENT_SCOPE)
endfunction()

# Downloads the package into `work`, checks it, and moves its headers to `headers` in one step, so that an interrupted
# download leaves nothing that looks complete.
function(dualbinary_download_ort_headers work headers)
  find_program(DUALBINARY_NPM npm)
  mark_as_advanced(DUALBINARY_NPM)
  if(NOT DUALBINARY_NPM)
    message(FATAL_ERROR "ONNX Runtime's C headers were not found, and there is no npm to download them.\n${ort_ways_out}")
  endif()
  message(STATUS "Downloading ONNX Runtime's C headers: ${ort_npm_name}@${ort_npm_version}, once for each user")
  file(REMOVE_RECURSE "${work}")
  file(MAKE_DIRECTORY "${work}")
  execute_process(
    COMMAND "${DUALBINARY_NPM}" pack --silent "${ort_npm_name}@${ort_npm_version}"
    WORKING_DIRECTORY "${work}"
    RESULT_VARIABLE failed
    OUTPUT_QUIET
    ERROR_VARIABLE output)
  set(archive "${work}/${ort_npm_name}-${ort_npm_version}.tgz")
  if(failed OR NOT EXISTS "${archive}")
    message(FATAL_ERROR "npm could not download ${ort_npm_name}@${ort_npm_version}:\n${output}\n${ort_ways_out}")
  endif()
  file(SHA256 "${archive}" sha256)
  if(NOT sha256 STREQUAL ort_npm_sha256)
    file(REMOVE_RECURSE "${work}")
    message(FATAL_ERROR "${ort_npm_name}@${ort_npm_version} has SHA-256 ${sha256}, expected ${ort_npm_sha256}; it was \
removed.\n${ort_ways_out}")
  endif()
  file(
    ARCHIVE_EXTRACT
    INPUT
    "${archive}"
    DESTINATION
    "${work}"
    PATTERNS
    "${ort_npm_headers}/*")
  file(RENAME "${work}/${ort_npm_headers}" "${headers}")
  file(REMOVE_RECURSE "${work}")
endfunction()

function(dualbinary_find_ort_headers result)
  if(DUALBINARY_ORT_INCLUDE_DIR)
    dualbinary_usable_ort_headers("${DUALBINARY_ORT_INCLUDE_DIR}" usable)
    if(NOT usable)
      message(FATAL_ERROR "DUALBINARY_ORT_INCLUDE_DIR=${DUALBINARY_ORT_INCLUDE_DIR}: expected ${ort_header} with \
ORT_API_VERSION ${ort_minimum_api} or newer there.\n${ort_ways_out}")
    endif()
    set(${result}
        "${DUALBINARY_ORT_INCLUDE_DIR}"
        PARENT_SCOPE)
    return()
  endif()
  dualbinary_installed_ort_headers(installed)
  dualbinary_user_cache(cache)
  set(headers "${cache}/onnxruntime-headers-${ort_npm_version}")
  foreach(dir IN LISTS installed headers)
    dualbinary_usable_ort_headers("${dir}" usable)
    if(usable)
      set(${result}
          "${dir}"
          PARENT_SCOPE)
      return()
    endif()
  endforeach()
  dualbinary_download_ort_headers("${headers}.partial" "${headers}")
  set(${result}
      "${headers}"
      PARENT_SCOPE)
endfunction()

dualbinary_find_ort_headers(DUALBINARY_ORT_HEADERS)
message(STATUS "ONNX Runtime C headers: ${DUALBINARY_ORT_HEADERS}")
