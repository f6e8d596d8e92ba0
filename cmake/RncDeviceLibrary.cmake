# rnc_add_device_library(<name> SOURCES a.cu b.cu ... [CUDA_ARCHITECTURES 80 90a-real ...])
#
# Kernels that tests launch by name, as shared libraries with one plain C API (tests/device_library/device_library.h), so that
# ctypes opens each the same way:
#   lib<name>.so           on the emulator                                        target <name>_plain
#   lib<name>_checked.so   on the emulator, every access of the kernels observed  target <name>_checked
#   lib<name>_cuda.so      for GPUs: with nvcc and CUDA_ARCHITECTURES only        target <name>_cuda
# The target <name> builds all of them. A library for GPUs carries its runtime: it loads wherever there is a driver, and on
# machines without one too. It does not compile if ptxas spills a register, uses local memory, or serialises wgmma.
set(RNC_DEVICE_LIBRARY_FOLDER ${CMAKE_CURRENT_LIST_DIR}/../tests/device_library)

function(rnc_add_device_library name)
  cmake_parse_arguments(PARSE_ARGV 1 library "" "" "SOURCES;CUDA_ARCHITECTURES")

  # A source file's language belongs to a folder, not to a target, and nvcc wants the same files below: the host compiler reads
  # them through wrappers.
  set(host_sources "")
  foreach(source IN LISTS library_SOURCES)
    cmake_path(ABSOLUTE_PATH source NORMALIZE OUTPUT_VARIABLE source)
    cmake_path(GET source STEM stem)
    set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/${name}_on_host/${stem}.cpp)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n")
    list(APPEND host_sources ${wrapper})
  endforeach()

  add_custom_target(${name})
  foreach(variant plain checked)
    set(target ${name}_${variant})
    add_library(${target} SHARED ${host_sources} $<TARGET_OBJECTS:rnc_device_library_on_host> $<TARGET_OBJECTS:rnc_emulator>)
    target_link_libraries(${target} PRIVATE rnc_emulated_options rnc_warnings)
    target_link_options(${target} PRIVATE -Wl,-z,defs)
    # Both libraries may be open in one process: nothing but the entry points may be seen from outside.
    set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON LINKER_LANGUAGE CXX)
    add_dependencies(${name} ${target})
  endforeach()
  target_link_libraries(${name}_checked PRIVATE rnc_checked_options)
  set_target_properties(${name}_plain PROPERTIES OUTPUT_NAME ${name})

  if(RNC_WITH_CUDA AND library_CUDA_ARCHITECTURES)
    set(target ${name}_cuda)
    add_library(${target} SHARED ${library_SOURCES} $<TARGET_OBJECTS:rnc_device_library_on_gpu>)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
    target_compile_options(
      ${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xptxas -warn-spills,-warn-lmem-usage -Werror all-warnings>")
    target_link_libraries(${target} PRIVATE rnc_cudart rnc_warnings)
    target_link_options(${target} PRIVATE -Wl,-z,defs -Wl,--exclude-libs,ALL)
    set_target_properties(
      ${target} PROPERTIES CUDA_ARCHITECTURES "${library_CUDA_ARCHITECTURES}"
                           CUDA_COMPILER_LAUNCHER "${Python_EXECUTABLE};${RNC_COMPILE_CUDA}" LINKER_LANGUAGE CXX
                           CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
    add_dependencies(${name} ${target})
  endif()
endfunction()

# The C API, compiled once for all libraries.
foreach(place host gpu)
  if(place STREQUAL "gpu" AND NOT RNC_WITH_CUDA)
    continue()
  endif()
  set(target rnc_device_library_on_${place})
  add_library(${target} OBJECT ${RNC_DEVICE_LIBRARY_FOLDER}/device_library.cpp ${RNC_DEVICE_LIBRARY_FOLDER}/memory_on_${place}.cpp)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
  target_link_libraries(${target} PRIVATE rnc_warnings $<$<STREQUAL:${place},gpu>:rnc_cudart>
                                          $<$<STREQUAL:${place},host>:rnc_emulated_options>)
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
endforeach()
