// A translation unit to build the precompiled header with.
