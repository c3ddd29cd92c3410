"""What we depend on: under which licences, and whether anything is known against it."""
