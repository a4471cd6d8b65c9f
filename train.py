"""Train a student.

accelerate launch train.py --config recipes/<student>/sft/config_<variant>.yaml [key=value ...]
"""

from gra.cli.train import main

if __name__ == "__main__":
    main()
