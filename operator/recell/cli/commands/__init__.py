"""The commands, one module per subject. They read, ask, write and show; what is shown is made in `views`."""
