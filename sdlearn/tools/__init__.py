"""The command line: `sdlearn course | book | generate | models | doctor | bench | train`."""
