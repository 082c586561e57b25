"""What every wing uses: whole files, harmless text, the machine."""
