"""Fine-tune a student: `accelerate launch train.py --config recipes/gemma-3-270m/sft/config_lora.yaml`.

`python train.py` is the same in one process; `--help` lists the options. Exit codes: 0 done, 2 wrong input,
4 the model could not be had, 5 the folder holds another run, 130 interrupted (run it again to go on).
"""

from gra.training.cli import main

if __name__ == "__main__":
    main()
