"""Programs for the environments of `make rivals`, in which there is no pred_server but this folder."""
