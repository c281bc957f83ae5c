"""`python -m wsi_pipeline`: the same as `wsiseg`."""

from wsi_pipeline.cli.main import main

if __name__ == "__main__":
    main()
