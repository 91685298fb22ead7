"""`python -m appliance` is the command `registry`."""

from appliance.cli import main

main()
