// See notes.h. ELF64, note type 32 of owner AMDGPU, which is a MessagePack map
// (LLVM's "User Guide for AMDGPU Backend", code object V3 and later).
#include "notes.h"

#include <cstring>
#include <elf.h>
#include <stdint.h>

namespace {

constexpr uint32_t NT_AMDGPU_METADATA = 32;

// A MessagePack value, as far as the note uses them.
struct Value {
  uint64_t number = 0;
  std::string text;
  std::vector<Value> list;
  std::map<std::string, Value> map;
  const Value& operator[](const char* key) const {
    static const Value none;
    auto found = map.find(key);
    return found == map.end() ? none : found->second;
  }
};

struct Reader {
  const unsigned char *at, *end;
  bool broken = false;

  uint64_t big_endian(size_t bytes) {
    uint64_t value = 0;
    if ((size_t)(end - at) < bytes) return broken = true, 0;
    for (; bytes; bytes--) value = value << 8 | *at++;
    return value;
  }
  std::string string(size_t bytes) {
    if ((size_t)(end - at) < bytes) return broken = true, "";
    at += bytes;
    return {(const char*)at - bytes, bytes};
  }
  Value array(size_t count) {
    Value value;
    for (; count && !broken; count--) value.list.push_back(read());
    return value;
  }
  Value pairs(size_t count) {
    Value value;
    for (; count && !broken; count--) {
      std::string key = read().text;
      value.map[key] = read();
    }
    return value;
  }
  Value number(uint64_t n) {
    Value value;
    value.number = n;
    return value;
  }
  Value text(size_t bytes) {
    Value value;
    value.text = string(bytes);
    return value;
  }
  Value read() {
    unsigned tag = (unsigned)big_endian(1);
    if (tag < 0x80) return number(tag);
    if (tag < 0x90) return pairs(tag & 15);
    if (tag < 0xa0) return array(tag & 15);
    if (tag < 0xc0) return text(tag & 31);
    switch (tag) {
      case 0xc2: case 0xc3: return number(tag & 1);
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return number(big_endian((size_t)1 << (tag - 0xcc)));
      case 0xd9: case 0xda: case 0xdb: return text(big_endian((size_t)1 << (tag - 0xd9)));
      case 0xdc: case 0xdd: return array(big_endian(tag == 0xdc ? 2 : 4));
      case 0xde: case 0xdf: return pairs(big_endian(tag == 0xde ? 2 : 4));
    }
    broken = true;
    return {};
  }
};

}  // namespace

bool read_notes(const void* image, ObjectNotes& notes) {
  const char* base = (const char*)image;
  const Elf64_Ehdr& header = *(const Elf64_Ehdr*)base;
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != 224) return false;
  for (int i = 0; i < header.e_phnum; i++) {
    const Elf64_Phdr& segment = ((const Elf64_Phdr*)(base + header.e_phoff))[i];
    if (segment.p_type != PT_NOTE) continue;
    for (uint64_t at = 0; at + sizeof(Elf64_Nhdr) <= segment.p_filesz;) {
      const Elf64_Nhdr& note = *(const Elf64_Nhdr*)(base + segment.p_offset + at);
      const char* name = (const char*)(&note + 1);
      const char* data = name + (note.n_namesz + 3) / 4 * 4;
      at = (uint64_t)(data - base) - segment.p_offset + (note.n_descsz + 3) / 4 * 4;
      if (note.n_type != NT_AMDGPU_METADATA || strcmp(name, "AMDGPU")) continue;
      Reader reader{(const unsigned char*)data, (const unsigned char*)data + note.n_descsz};
      Value root = reader.read();
      if (reader.broken) return false;
      // amdgcn-amd-amdhsa--gfx90a, perhaps with :features.
      std::string target = root["amdhsa.target"].text;
      notes.architecture = target.substr(target.rfind("--") + 2);
      notes.architecture = notes.architecture.substr(0, notes.architecture.find(':'));
      for (const Value& kernel : root["amdhsa.kernels"].list)
        notes.kernels[kernel[".name"].text] = {kernel[".kernarg_segment_size"].number, kernel[".group_segment_fixed_size"].number,
                                               kernel[".max_flat_workgroup_size"].number, kernel[".wavefront_size"].number};
      return true;
    }
  }
  return false;
}
