"""Where kfp and Kubernetes are met: compiling, running the compiled file, submitting."""
