"""`python -m keras_meanflow.cli`, for launchers such as torchrun."""

from keras_meanflow.cli import main

if __name__ == "__main__":
    main(prog_name="keras-meanflow")
