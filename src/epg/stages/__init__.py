"""One plain function per stage; command line, components and tests call it."""
