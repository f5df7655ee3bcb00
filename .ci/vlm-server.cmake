# Read by llama.cpp's build: its 200 small files of model architectures are compiled a dozen at a time, which takes a
# fraction of the time. The larger files beside them stay as they are: some names in them meet.
function(fewer_pieces)
    file(GLOB own "${CMAKE_SOURCE_DIR}/src/*.cpp")
    set_source_files_properties(${own} DIRECTORY "${CMAKE_SOURCE_DIR}/src" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    file(GLOB own "${CMAKE_SOURCE_DIR}/tools/mtmd/*.cpp")
    set_source_files_properties(${own} DIRECTORY "${CMAKE_SOURCE_DIR}/tools/mtmd" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    set_target_properties(llama mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
endfunction()
if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
    cmake_language(DEFER CALL fewer_pieces)
endif()
