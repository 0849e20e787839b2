// What a code object says of its kernels: the metadata note that AMD's loader reads.
#pragma once
#include <cstddef>
#include <map>
#include <string>
#include <vector>

struct KernelNote {
  size_t argument_bytes = 0;
  size_t lds_bytes = 0;
  size_t threads_max = 0;
  size_t wave = 0;
};

struct ObjectNotes {
  // gfx90a.
  std::string architecture;
  std::map<std::string, KernelNote> kernels;
};

// False where the image is no AMD code object, or its notes are broken.
bool read_notes(const void* image, ObjectNotes& notes);
