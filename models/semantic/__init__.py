"""Networks that classify pixels: DSSNet, its fast form, and U-Net for comparison."""
