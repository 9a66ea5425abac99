"""What hosts in other languages are built from here: libraries and compilers that package registries have."""
