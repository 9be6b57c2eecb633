/* attention_prompt_sm90_f16.cu - attention of prompts in fp16. */
#include "attention_prompt_sm90.cuh"

struct prompt_kernel prompt_sm90_f16(int head_dim, bool wide)
{
    return prompt_sm90_for<DTYPE_F16>(head_dim, wide);
}
