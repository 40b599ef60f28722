#!/bin/sh
# Makes configure from configure.ac.
mkdir -p build-aux/m4 && exec autoreconf -fi
