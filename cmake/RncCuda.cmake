# Finds nvcc (CUDA_HOME, then PATH, then NVIDIA's pip wheels beside the Python in use) and enables CUDA with it.
# Sets RNC_WITH_CUDA (0 or 1), RNC_CUDA_VERSION and RNC_CUDA_ARCHITECTURES, and defines the target rnc_cudart.
set(RNC_WITH_CUDA 0)
set(RNC_CUDA_VERSION "")
set(RNC_CUDA_ARCHITECTURES "")

function(rnc_find_nvcc result)
  set(candidates "")
  foreach(variable CUDA_HOME CUDA_PATH)
    if(DEFINED ENV{${variable}})
      list(APPEND candidates $ENV{${variable}}/bin/nvcc)
    endif()
  endforeach()
  find_program(RNC_NVCC_ON_PATH nvcc PATHS /usr/local/cuda/bin)
  mark_as_advanced(RNC_NVCC_ON_PATH)
  if(RNC_NVCC_ON_PATH)
    list(APPEND candidates ${RNC_NVCC_ON_PATH})
  endif()
  # The wheels unpack a toolkit: .../site-packages/nvidia/cu13/{bin,include,lib,nvvm}.
  execute_process(COMMAND ${Python_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('purelib'))"
                  OUTPUT_VARIABLE site_packages OUTPUT_STRIP_TRAILING_WHITESPACE)
  file(GLOB wheel_nvcc ${site_packages}/nvidia/cu*/bin/nvcc)
  list(APPEND candidates ${wheel_nvcc})
  foreach(candidate IN LISTS candidates)
    if(EXISTS ${candidate})
      set(${result} ${candidate} PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${result} "" PARENT_SCOPE)
endfunction()

# The compute capabilities of this machine's GPUs as CMake architectures ("90a-real;80-real"), or the default set: Turing, Ampere
# with PTX (which newer GPUs can translate) and Hopper.
function(rnc_default_architectures result)
  set(architectures "")
  find_program(RNC_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(RNC_NVIDIA_SMI)
  if(RNC_NVIDIA_SMI)
    execute_process(COMMAND ${RNC_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE capabilities ERROR_QUIET RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT failed)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${capabilities}")
      foreach(capability IN LISTS capabilities)
        string(REPLACE "." "" capability ${capability})
        if(capability EQUAL 90)
          set(capability 90a)  # Hopper's warpgroup instructions exist only in the architecture-specific target.
        endif()
        list(APPEND architectures ${capability}-real)
      endforeach()
      list(REMOVE_DUPLICATES architectures)
    endif()
  endif()
  if(NOT architectures)
    set(architectures 75-real 80 90a-real)
  endif()
  set(${result} ${architectures} PARENT_SCOPE)
endfunction()

# Of CMAKE_CUDA_ARCHITECTURES those that have the instructions of a generation of kernels: "simt" -> all, "sm80" -> "80;90a-real".
# Hopper's exist in one target of its own alone: "sm90" -> "90a-real", or 90a as PTX where the list does not have it.
function(rnc_architectures_from generation result)
  if(generation STREQUAL "simt")
    set(${result} ${CMAKE_CUDA_ARCHITECTURES} PARENT_SCOPE)
    return()
  endif()
  if(generation STREQUAL "sm90")
    set(architectures ${CMAKE_CUDA_ARCHITECTURES})
    list(FILTER architectures INCLUDE REGEX "^90a")
    if(NOT architectures)
      set(architectures 90a-virtual)
    endif()
    set(${result} ${architectures} PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCH "[0-9]+" oldest ${generation})
  set(architectures "")
  foreach(architecture IN LISTS CMAKE_CUDA_ARCHITECTURES)
    string(REGEX MATCH "^[0-9]+" number ${architecture})
    if(number GREATER_EQUAL oldest)
      list(APPEND architectures ${architecture})
    endif()
  endforeach()
  set(${result} ${architectures} PARENT_SCOPE)
endfunction()

# Compiles a target's kernels for CMake architectures. Kernels without any of Hopper's instructions are as PTX for 9.0 what they are
# for 8.0: where the list has both, one PTX is translated for both, as LLVM's part takes two thirds of nvcc's time. So it must not be
# said of kernels that may start early.
function(rnc_compile_for target architectures)
  set(ampere ${architectures})
  list(FILTER ampere INCLUDE REGEX "^80(-real)?$")
  if(ampere AND "90a-real" IN_LIST architectures)
    list(REMOVE_ITEM architectures ${ampere} 90a-real)
    set(code sm_80,sm_90a)
    if(ampere STREQUAL "80")
      string(PREPEND code compute_80,)
    endif()
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--generate-code=arch=compute_80,code=[${code}]>")
  endif()
  if(NOT architectures)
    set(architectures OFF)  # all are said above
  endif()
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${architectures}")
endfunction()

if(NOT RNC_CUDA STREQUAL "OFF")
  if(NOT CMAKE_CUDA_COMPILER)
    rnc_find_nvcc(CMAKE_CUDA_COMPILER)
  endif()
  if(CMAKE_CUDA_COMPILER)
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      rnc_default_architectures(CMAKE_CUDA_ARCHITECTURES)
    endif()
    # The library holds every generation's kernels: where no GPU of the list has tensor cores that they know, as PTX.
    rnc_architectures_from(sm80 with_tensor_cores)
    if(NOT with_tensor_cores)
      list(APPEND CMAKE_CUDA_ARCHITECTURES 80-virtual)
    endif()
    # nvcc looks for its libraries in lib64; the wheels have them in lib. The host linker of CMake's trial programs reads this.
    cmake_path(GET CMAKE_CUDA_COMPILER PARENT_PATH rnc_nvcc_bin)
    set(ENV{LIBRARY_PATH} "${rnc_nvcc_bin}/../lib:$ENV{LIBRARY_PATH}")
    set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # rnc_cudart is the runtime
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc 13 has C++20
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    endif()
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(RNC_WITH_CUDA 1)
    set(RNC_CUDA_VERSION ${CMAKE_CUDA_COMPILER_VERSION})
    list(JOIN CMAKE_CUDA_ARCHITECTURES " " RNC_CUDA_ARCHITECTURES)  # a semicolon would split the definition
    message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION} at ${CMAKE_CUDA_COMPILER}, "
                   "architectures ${CMAKE_CUDA_ARCHITECTURES}")
  elseif(RNC_CUDA STREQUAL "ON")
    message(FATAL_ERROR "RNC_CUDA=ON, but there is no nvcc: set CUDA_HOME, put nvcc on PATH, or install NVIDIA's pip wheels "
                        "(pip install the packages of the extra `nvcc` in pyproject.toml)")
  endif()
endif()

if(RNC_WITH_CUDA)
  # The runtime is linked statically, so that one build also loads on machines without a driver or a toolkit. CMake's own
  # FindCUDAToolkit wants parts of a full toolkit that the pip wheels do not have.
  find_path(RNC_CUDA_INCLUDE cuda_runtime_api.h
            HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ${rnc_nvcc_bin}/../include REQUIRED)
  find_library(RNC_CUDART_STATIC cudart_static
               HINTS ${CMAKE_CUDA_HOST_IMPLICIT_LINK_DIRECTORIES} ${rnc_nvcc_bin}/../lib ${rnc_nvcc_bin}/../lib64 REQUIRED)
  add_library(rnc_cudart INTERFACE)
  target_include_directories(rnc_cudart SYSTEM INTERFACE ${RNC_CUDA_INCLUDE})
  target_link_libraries(rnc_cudart INTERFACE ${RNC_CUDART_STATIC} Threads::Threads ${CMAKE_DL_LIBS} rt)
else()
  message(STATUS "")
  message(STATUS "*** No CUDA kernels for GPUs in this build: RNC_CUDA=${RNC_CUDA} and no nvcc was used. CPU backend and emulator only.")
  message(STATUS "*** To get them: set CUDA_HOME, put nvcc on PATH, or install the extra `nvcc`, and build again.")
  message(STATUS "")
endif()
