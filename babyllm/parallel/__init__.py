"""One model on several devices: sharded, offloaded, or split within its layers."""
