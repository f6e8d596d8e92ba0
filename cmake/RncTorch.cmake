# _C: the torch ops over libtorch's stable ABI, one binary for every torch >= 2.11 and Python >= 3.10.
# _host: torch-free introspection over pybind11.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE RNC_TORCH_ROOT ERROR_VARIABLE rnc_torch_error RESULT_VARIABLE rnc_torch_failed OUTPUT_STRIP_TRAILING_WHITESPACE)
if(rnc_torch_failed)
  message(FATAL_ERROR "torch is not installed for ${Python_EXECUTABLE}. Install it first (pip install 'torch>=2.11') and build "
                      "with `pip install --no-build-isolation .`, or build without the torch ops: -DRNC_TORCH=OFF")
endif()
if(NOT Python_Development.Module_FOUND)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no Python.h: install Python's development files (python3-dev)")
endif()

# find_package(Torch) wants a complete CUDA toolkit beside a CUDA torch; the include folder and libtorch_cpu.so are all we need.
file(GLOB RNC_BINDING_SOURCES CONFIGURE_DEPENDS csrc/bindings/*.cpp)
add_library(_C MODULE ${RNC_BINDING_SOURCES})
target_include_directories(_C SYSTEM PRIVATE ${RNC_TORCH_ROOT}/include ${Python_INCLUDE_DIRS})
target_compile_definitions(
  _C PRIVATE Py_LIMITED_API=0x030A0000 TORCH_TARGET_VERSION=0x020b000000000000 RNC_WITH_CUDA=${RNC_WITH_CUDA}
             RNC_CUDA_VERSION="${RNC_CUDA_VERSION}" RNC_CUDA_ARCHITECTURES="${RNC_CUDA_ARCHITECTURES}"
             RNC_COMPILER="${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
target_link_libraries(_C PRIVATE rnc_plan rnc_warnings ${RNC_TORCH_ROOT}/lib/libtorch_cpu.so ${CMAKE_DL_LIBS})
if(RNC_WITH_CUDA)
  target_link_libraries(_C PRIVATE rnc_kernels)
endif()
# Without an rpath: torch is imported first, and the library must not remember the torch it was built beside.
set_target_properties(_C PROPERTIES PREFIX "" SUFFIX ".abi3.so" CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
                                    SKIP_BUILD_RPATH ON)
target_link_options(_C PRIVATE -Wl,--exclude-libs,ALL)
install(TARGETS _C LIBRARY DESTINATION .)

execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir OUTPUT_VARIABLE pybind11_ROOT
                OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
set(PYBIND11_FINDPYTHON ON)
find_package(pybind11 CONFIG REQUIRED)
file(GLOB RNC_HOST_SOURCES CONFIGURE_DEPENDS csrc/host/*.cpp)
pybind11_add_module(_host ${RNC_HOST_SOURCES})
target_compile_definitions(_host PRIVATE RNC_WITH_CUDA=${RNC_WITH_CUDA} RNC_CUDA_VERSION="${RNC_CUDA_VERSION}")
target_link_libraries(_host PRIVATE rnc_plan rnc_warnings ${CMAKE_DL_LIBS})
if(RNC_WITH_CUDA)
  target_link_libraries(_host PRIVATE rnc_cudart)
endif()
install(TARGETS _host LIBRARY DESTINATION .)
