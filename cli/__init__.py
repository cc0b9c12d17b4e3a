"""The command line of geosr: parse, one library call, render what it says."""
