"""`python -m raq_client`: the same program as `raq-client`."""

from raq_client.cli.app import main

if __name__ == "__main__":
    main()
