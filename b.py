import torch,time,sys
torch.set_num_threads(int(sys.argv[1])); a=torch.randn(512,576); b=torch.randn(1536,576)
for dt in (torch.float32,torch.bfloat16):
    x,y=a.to(dt),b.to(dt); x@y.T; t=time.time()
    for _ in range(20): x@y.T
    d=(time.time()-t)/20; print(dt,512*576*1536*2/d/1e9,"GFLOP/s")
q=torch.randn(8,9,96,64); t=time.time()
for _ in range(5): torch.nn.functional.scaled_dot_product_attention(q,q,q,is_causal=True)
print("sdpa",(time.time()-t)/5)
x=torch.randn(512,49152); t=time.time(); x.log_softmax(-1); print("lsm",time.time()-t)
