"""Ask one model a suite: `python eval/run.py SUITE --model NAME [--adapter DIR]`; the same as `gra evaluate`."""

from gra.cli.evaluate import main_run

if __name__ == "__main__":
    main_run()
